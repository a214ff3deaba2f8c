"""Makes tests/data/text/jinja_cases.jsonl: small templates and what jinja2 makes of them in transformers' environment.

Needs jinja2 >= 3.1.6 and transformers. Lines: {"vars": the default variables} first, then one case per line:
{"t": template, "v": variables instead of the default, "o": [trim_blocks, lstrip_blocks, keep_trailing_newline] instead
of transformers' options, "r": rendered text | "e": error}.
"""
import json, os, random, re, sys, warnings

from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))

VARS = {
    "n": 7, "m": -3, "f": 2.5, "t": True, "x": None, "s": "Hello, World", "e": "", "u": "Größe 日本 😀",
    "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 2, "a": 1, "C": [1, {"z": None}]}, "nested": {"a": {"b": {"c": "deep"}}},
    "rows": [{"name": "ann", "age": 30, "ok": True}, {"name": "Bob", "age": 25, "ok": False}, {"name": "cid", "age": 30}],
    "text": "  one\n two\n\nthree  ", "html": "<a href='x'>T&\"C\"</a>", "messages": [{"role": "system", "content": "S"},
    {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "bye"}],
}

CASES = []
def case(t, v=None, o=None): CASES.append((t, v, o))
def cases(*ts):
    for t in ts: case(t)
def exprs(text):
    """One expression per line."""
    for line in text.strip("\n").split("\n"):
        if line.strip(): case("{{ " + line.strip() + " }}")

# ---- lexer and white space ----
cases("plain", "", "\n", "a\n", "a\n\n", "a\r\nb\rc\n", "{{ 1 }}", "{{1}}", "{{- 1 -}}", "  {{- n -}}  x", "a {#- c -#} b", "a{# c #}b", "a\n{# c #}\nb",
      "a\n  {# c #}\nb", "{% if t %}\nyes\n{% endif %}\nend", "  {% if t %}  \n  yes\n  {% endif %}  \nend", "x  {% if t %}\ny{% endif %}",
      "  {%+ if t %}y{% endif %}", "{% if t +%}\ny{% endif %}", "{% if t -%}\n\n  y {%- endif %}  z", "\n\n{%- if t %}\n\na{% endif %}",
      "a\n  {%- if t %} b{% endif %}", "  {{ n }}\n  {{ n }}\n", "\t{% set a = 1 %}\t\n{{ a }}", "{% raw %}{{ x }}{% if %}{% endraw %}z", "a {%- raw -%}  {{ y }}  {%- endraw -%} b",
      "{% raw %}\n a\n{% endraw %}\nb", "  {% raw %}\n a\n  {% endraw %}\nb", "{%raw%}x{%endraw%}", "{%- raw %} x {% endraw -%} y", "{% raw %}never ended", "{# never ended",
      "{{ 'a' 'b' \"c\" }}", "{{ 'it''s' }}", r"{{ 'a\nb\tc\\d\'e\"f' }}", r'{{ "q\"q" }}', r"{{ '\x41\u00e9\U0001F600\101\0' }}", r"{{ '\q\é\日' }}", r"{{ '\x4' }}", r"{{ '\N{DASH}' }}",
      "{{ 'multi\nline' }}", "{{ 'a\\\nb' }}", "{{ 'unclosed }}", "{{ 1 }", "{{ 1 ", "{% if t %}", "{% endif %}", "{% foo %}", "{{ }}", "{% %}", "{{ a b }}", "{{ ) }}", "{{ (1] }}", "{{ [1, 2 }}", "{{ @ }}", "{{ a ! b }}", "{{ $ }}",
      "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': {}}}}}", "{{ 1_000 }} {{ 0x_ff }} {{ 0b101 }} {{ 0o17 }} {{ 1e3 }} {{ 1.5e-3 }} {{ 1_0.2_5 }} {{ 00 }}", "{{ 1.0 }} {{ 100000000000000000.0 }} {{ 1e16 }} {{ 123456789012345.678 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e22 }} {{ 1e100 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }} {{ -0.0 }}",
      "{{ 0.1 + 0.2 }} {{ 1/3 }} {{ 2/3 }} {{ 1e15 }} {{ 1e16 }} {{ 9007199254740993.0 }} {{ 3.14159 }} {{ 1.5 }} {{ 100.0 }} {{ 1e-7 }}", "{{ l.0 }} {{ l.1.real }}", "{{ größe }}", "{{ 名 }}", "a{{ n }}b{{ s }}c", "{{n}}{{n}}", "line {{ n }}\n{% if t %}\n\n{% endif %}\n\nend\n",
      "{% if t %}a{% else %}b{% endif %}\n", "{% if t: %}a{% endif %}", "{%if t%}a{%endif%}", "a {% if t -%} b {%- endif -%} c", "{#- a -#}\n\n{%- if t %}\n  x\n{%- endif %}\n", "{{ '{{' }}{{ '%}' }}{{ '#}' }}", "{{ \"}}\" }}", "{% set a = '%}' %}{{ a }}", "{##}x", "{#-#}  x", "x  {#+#}  y", "{{+n}}", "x {{+ n }}", " {#+ c +#} \nb", "a\n {#+ c +#}\nb", "a{%+ if t +%} \n{% endif %}b",
      "{{ n -}}\n\n  a", "a\n\n  {{- n }}", "\x0b{% if t %}a{% endif %}", "\u00a0{% if t %}a{% endif %}\u3000", "a \u2003{%- if t %}a{% endif %}", "  {% if t %}\r\n a\r\n{% endif %}\r\n b")
for o in ([False, False, False], [True, False, True], [False, True, True], [False, False, True]):
    for t in ("a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "{# c #}\n{{ n }}\n\n", "  {% raw %}\n x \n  {% endraw %}\n", "  {%- if t -%}\n x\n{% endif +%}\n\n"): case(t, None, o)

# ---- expressions ----
exprs(r"""
1 + 2 * 3
(1 + 2) * 3
7 // 2, -7 // 2, 7 // -2, -7 % 3, 7 % -3, -7 % -3
7 / 2, 6 / 3, -7 / 2
2 ** 3 ** 2
2 ** -1, 2.0 ** 3, (-8) ** 2, -2 ** 2
7.5 // 2, -7.5 // 2, 7.5 % 2, -7.5 % 2, 7.5 % -2, 1.0 // 0.1
1 / 0
1 // 0
1 % 0
1.5 % 0
0 ** -1
9223372036854775807
9223372036854775806 + 1
-9223372036854775807 - 1
1 + 1.0, True + True, True * 3, -True, +True
1 ~ 2 ~ 'a' ~ none ~ true ~ [1]
'a' + 'b', 'ab' * 3, 3 * 'ab', 'a' * -1, [1] * 2, [1] + [2], (1,) + (2,)
'a' + 1
1 + 'a'
'a' + none
[1] + (2,)
'a' - 'b'
-'a'
+'a'
none + 1
1 < 2 < 3, 1 < 2 > 3, 1 == 1.0 == True, 1 != 2 != 1
1 < 'a'
'a' < 'b', 'a' < 'B', 'ab' < 'abc', 'é' > 'z'
[1, 2] < [1, 3], (1,) < (1, 2), [1, 'a'] != [1, 2]
[1, 'a'] < [1, 2]
none < 1
none == none, none == 0, '' == none, 1 == '1', [1] == (1,), {} == {}, {'a': 1} == {'a': 1.0}
1 in l, 5 in l, 'a' in d, 'z' not in d, 'ell' in s, '' in s, 'x' in e
1 in s
1 in 5
1 in none
[1] in [[1], [2]]
not 1, not 0, not not '', not []
1 and 2, 0 and 2, 1 or 2, 0 or '', none or 'x', [] and 1
not 1 == 2
1 if t else 2, 1 if e else 2
1 if e
'a' if e else 'b' if e else 'c'
(1 if t)
[1 if t else 2, 3]
'x' ~ (1 if e) ~ 'y'
(1, 2), (1,), (), 1,
1, 2
[1, 'a', none, true, 1.5, (1, 2), {'k': [1]}, "it's", 'q"q', 'b\\n\n\t']
[1, 2,]
{'a': 1, 'b': [1, 2], 3: none, (1, 2): 'x', none: 1, true: 2}
{'a': 1,}
{1: 'a', 1.0: 'b', true: 'c'}
{[1]: 2}
{'a': 1}['a'], {'a': 1}.a, {'a': 1}['b'], {'a': 1}.b
{}.a.b
d.a, d['b'], d.C[1].z, d.C.0, nested.a.b.c, nested['a']['b'].c
l[0], l[-1], l[3], l[-4], l['a'], l[1.0]
l[True], s[0], s[-1], u[6], u[-1], s[100]
l[1:], l[:1], l[:], l[::-1], l[::2], l[-2:], l[5:], l[:-5], l[2:0:-1], l[0:3:2]
s[1:4], s[::-1], u[5:], u[::-1], s[-3:], s[::2], s[10:2], s[10:2:-3], u[-1:]
l[::0]
l['a':]
d[1:2]
n[1:]
(1, 2, 3)[1:], 'abc'[1:][0]
none.a, n.a, s.a, l.a
undefined_thing
undefined_thing.a
undefined_thing['a']
undefined_thing + 1
1 + undefined_thing
undefined_thing()
undefined_thing ~ 'x'
undefined_thing == undefined_other, undefined_thing == none, undefined_thing != 1
undefined_thing < 1
-undefined_thing
not undefined_thing, undefined_thing or 1, undefined_thing and 1
1 in undefined_thing
undefined_thing in [1]
undefined_thing in 'a'
undefined_thing[1:]
'%s' % undefined_thing
[undefined_thing]
d.missing.x
d.missing is defined, d.a is defined, undefined_thing is defined
rows[5].name
rows[0].nope ~ 'x'
s.upper.foo
n()
s()
s.upper
n.real, n.imag, true.real
l.append(1)
l.append
d.update({'a': 1})
d.pop('a')
d.setdefault('z', 1)
l.sort()
l.append is defined
d.__class__
s.__len__
''.__class__.__mro__
d.items(), d.keys(), d.values()
d.items()|list
d.keys()|list + ['x']
d.keys()[0]
d.get('a'), d.get('zz'), d.get('zz', 5)
d.get(key='a')
d.get([1])
d.copy(), l.copy(), l.index(1), l.count(3), (1, 1).count(1), (1, 2).index(2)
l.index(9)
'a' in d.keys(), 2 in d.values(), ('a', 1) in d.items()
d.keys() == {'b': 0, 'a': 0, 'C': 0}.keys()
d.items() is sequence, d.items() is iterable, d.items() is mapping, d.items()|length
range(5), range(5)|list, range(2, 5)|list, range(5, 0, -2)|list, range(0)|list, range(1, 10, 3)[1], range(5)[1:3]|list, range(5)|length
range(5)[1:3], range(5)[::-1], range(0, 10, 2)
range()
range(1, 2, 0)
range(1.5)
range('a')
range(1000000)
3 in range(5), 5 in range(5), 2.0 in range(5), 'a' in range(5)
dict(a=1, b=2), dict([('a', 1)]), dict({'x': 1}, y=2), dict()
dict(1)
dict(none)
dict.fromkeys(['a', 'b']), dict.fromkeys('ab', 0)
namespace(a=1), namespace({'b': 2}, a=1)
namespace(_a=1)
namespace(a=1).a, namespace(a=1).b, namespace(a=1)['a']
cycler()
joiner('-')()
raise_exception('my message')
raise_exception(1 ~ 'x')
raise_exception()
'abc'.foo()
s.upper(), s.lower(), s.title(), s.capitalize(), s.swapcase(), u.upper(), 'straße'.upper(), 'ÉA'.lower(), "it's a dog's".title(), 'ΑΣ'.lower(), 'ǆ'.title(), 'İ'.lower()
s.casefold(), 'Straße'.casefold()
'  a b  '.strip(), '  a b  '.lstrip(), '  a b  '.rstrip(), 'xxaxx'.strip('x'), 'abcba'.strip('ab'), 'xyz'.lstrip('yx'), '\n a\t'.strip(), 'a'.strip(none), 'ßaß'.strip('ß')
'a'.strip(1)
'a,b,c'.split(','), 'a,b,c'.split(',', 1), 'a,b,c'.rsplit(',', 1), ' a  b '.split(), ' a  b c '.split(none, 1), ' a b c '.rsplit(none, 1), ''.split(), ''.split(','), 'abab'.split('ab'), 'a b'.split(maxsplit=1), 'a,b'.split(sep=',')
'a'.split('')
'a'.split(1)
'a\nb\r\nc\x0bd'.splitlines(), 'a\n\nb\n'.splitlines(true), ''.splitlines(), '\n'.splitlines()
'abc'.startswith('a'), 'abc'.startswith(('x', 'ab')), 'abc'.endswith('bc'), 'abc'.startswith('b', 1), 'abc'.endswith('b', 0, 2), 'abc'.startswith(''), 'abc'.startswith('', 5), 'aé'.endswith('é', 1)
'abc'.startswith(['a'])
'abcabc'.replace('b', 'X'), 'abcabc'.replace('b', 'X', 1), 'abc'.replace('', '-'), 'abc'.replace('', '-', 2), 'aaa'.replace('a', ''), 'é日'.replace('', '.')
'a'.replace('a')
'abcabc'.find('c'), 'abcabc'.rfind('c'), 'abc'.find('z'), 'é日本'.find('本'), 'abcabc'.find('c', 3), 'abcabc'.find('c', -2), 'abc'.find('', 3), 'abc'.find('', 4), 'abcabc'.index('c')
'abc'.index('z')
'banana'.count('a'), 'banana'.count('an'), 'banana'.count(''), 'banana'.count('a', 2), 'banana'.count('a', 2, 4)
'-'.join(['a', 'b']), '-'.join('abc'), ''.join([]), ', '.join(d)
'-'.join([1])
'-'.join(5)
'a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'abc'.partition('-'), 'abc'.rpartition('-')
'abc'.removeprefix('a'), 'abc'.removesuffix('bc'), 'abc'.removeprefix('x')
'ab'.ljust(5), 'ab'.rjust(5, '.'), 'ab'.center(5, '*'), 'abc'.center(6, '*'), '-5'.zfill(4), '5'.zfill(3), 'é'.ljust(3, '日')
'a\tb'.expandtabs(), 'a\tb'.expandtabs(4)
'12'.isdigit(), '1a'.isdigit(), ''.isdigit(), '²'.isdigit(), '²'.isdecimal(), '½'.isnumeric(), 'ab'.isalpha(), 'é日'.isalpha(), 'a1'.isalnum(), ' \n'.isspace(), ''.isspace(), 'ab'.islower(), 'aB'.islower(), 'AB1'.isupper(), '1'.isupper(), 'Ab Cd'.istitle(), 'ab'.istitle(), 'a_1'.isidentifier(), '1a'.isidentifier(), 'aé'.isascii(), 'a\n'.isprintable(), ''.isprintable()
'{} {}'.format(1, 'a'), '{0} {1} {0}'.format(1, 2), '{a}'.format(a=1), '{0.a} {0[b]} {1[0]}'.format(d, l), '{{}}'.format(), '{!r} {!s}'.format('a', 'b')
'{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:+d}|{:,}|{:x}|{:#x}|{:b}|{:08.3f}|{:.2f}|{:e}|{:g}|{:%}|{:.1%}'.format('a', 'b', 'c', 'd', 42, 5, 1234567, 255, 255, 5, 3.14159, 2.5, 12345.678, 0.0001, 0.25, 0.123)
'{:{}}|{:>{w}}'.format('a', 5, 'b', w=3)
'{:.2}|{:5}|{:5}|{:}|{:.3}|{:10.2}|{:_}|{:c}|{:n}'.format('abc', 1, 'a', 1.5, 3.14159, 123.456, 1000000, 65, 5)
'{:,}|{:,.2f}|{:012,}|{:010,.1f}'.format(1234567, 1234567.891, 1234567, 1234.5)
'{}'.format()
'{a}'.format()
'{'.format()
'}'.format()
'{:d}'.format('a')
'{:s}'.format(1)
'{0.foo}|{0.foo.bar}'.format(d)
'{:>5}'.format(none)
'{}'.format(true), '{:d}'.format(true), '{:5}'.format(true), '{}'.format([1, 'a']), '{}'.format(none)
'{x}'.format_map({'x': 1})
'%s %d %5.2f|%-5s|%05d|%x|%%|%r|%c|%+d|% d|%o|%#x|%e|%g|%i' % ('a', 1, 2.345, 'b', 42, 255, 'q', 'c', 5, 5, 8, 255, 12345.6789, 0.00001, 3.9)
'%s' % 'a', '%s' % [1], '%s' % none, '%(a)s-%(b)d' % {'a': 1, 'b': 2}, '%5s|%.2s|%*d' % ('a', 'abc', 4, 7), '%%' % ()
'%s %s' % 'a'
'%s' % (1, 2)
'%d' % 'a'
'%q' % 1
'a' % 1
'a' % {'b': 1}, 'a' % [1]
'%.3d|%5.3d' % (5, 5)
(1.5).is_integer(), 2.0.is_integer()
""")

# ---- filters ----
exprs(r"""
text|trim
'xax'|trim('x')
5|trim, none|trim, undefined_thing|trim
s|upper, s|lower, 'the quick-brown (fox) [x] it\'s'|title, 'hELLO wORLD'|capitalize, 5|upper, none|lower, ''|title, 'ß a'|title
s|replace('l', 'L'), s|replace('l', 'L', 1), 5|replace('5', 'x'), s|replace('o', 0), undefined_thing|replace('a', 'b')
s|length, l|count, d|length, ''|length, undefined_thing|length, u|length, range(3)|length
5|length
none|length
(l|map('string'))|length
l|first, l|last, []|first, []|last, s|first, s|last, d|first, d|last, range(3)|last, undefined_thing|first
(l|map('string'))|last
5|first
none|first
[]|first is defined, []|min is defined
d|list, s|list, (1, 2)|list, undefined_thing|list, range(3)|list
5|list
none|list
l|join, l|join(','), w|join(' - '), rows|join(',', attribute='name'), rows|join(attribute='age', d='+'), undefined_thing|join(','), s|join('.'), d|join, [none, true, 1.5]|join('|'), [[1], 'a']|join(5)
5|join
undefined_thing|default('x'), none|default('x'), none|default('x', true), ''|default('x', boolean=true), 0|d('z', true), d.zz|default, d.a|default(9), undefined_thing|d([])
l|sort, l|sort(reverse=true), w|sort, w|sort(case_sensitive=true), rows|sort(attribute='age')|map(attribute='name')|list, rows|sort(attribute='age,name', reverse=true)|map(attribute='name')|list, d|sort, 'hello'|sort, [true, false, 2]|sort, [(2, 'a'), (1, 'b')]|sort, undefined_thing|sort
[1, 'a']|sort
[none, 1]|sort
5|sort
rows|sort(attribute='ok')
d|dictsort, d|dictsort(true), {'a': 3, 'b': 1}|dictsort(by='value'), {'a': 3, 'b': 1}|dictsort(false, 'value', true), {'b': 1, 'A': 2, 'a': 3}|dictsort
d|dictsort(by='x')
l|dictsort
undefined_thing|dictsort
d|items|list, undefined_thing|items|list, {}|items|list
l|items|list
l|reverse|list, s|reverse, u|reverse, d|reverse|list, (l|map('string'))|reverse, range(3)|reverse|list, (1, 2)|reverse|list
5|reverse
w|unique|list, [1, 1.0, true, 'a', 'A']|unique|list, w|unique(true)|list, rows|unique(attribute='age')|map(attribute='name')|list, 'aAb'|unique|list
[[1]]|unique|list
w|map('upper')|list, rows|map(attribute='name')|list, rows|map(attribute='ok')|list, rows|map(attribute='ok', default='?')|list, l|map('string')|join('-'), ['a', 'b']|map('replace', 'a', 'x')|list, [[1, 2], [3]]|map('join', '+')|list, ['1', 'x']|map('int', default=9)|list, [d, d]|map(attribute='C.1.z')|list, [[1, 2]]|map(attribute=1)|list, [[5, 6]]|map(attribute='0')|list, undefined_thing|map('upper')|list, []|map('nope')|list
[1]|map('nope')|list
[1]|map|list
[1]|map(foo=1)|list
5|map('string')|list
rows|map(attribute='age')|sum, rows|map(attribute='name')|map('upper')|list|join
[0, 1, '', 'a', none]|select|list, [0, 1, '', 'a']|reject|list, [1, 2, 3, 4]|select('even')|list, [1, 2, 3]|select('>', 1)|list, [1, 2, 3]|reject('in', [1])|list, [1, 'a', none]|select('string')|list, [1, 2, 3]|select('divisibleby', 3)|list, ['a', 'b']|select('equalto', 'a')|list, undefined_thing|select|list
[1]|select('nope')|list
[]|select('nope')|list
rows|selectattr('ok')|map(attribute='name')|list, rows|rejectattr('ok')|map(attribute='name')|list, rows|selectattr('age', 'equalto', 30)|map(attribute='name')|list, rows|selectattr('ok', 'defined')|map(attribute='name')|list, rows|rejectattr('age', 'gt', 26)|map(attribute='name')|list, messages|selectattr('role', 'in', ['user', 'system'])|list|length, [{'a': {'b': 1}}, {'a': {}}]|selectattr('a.b', 'defined')|list
rows|selectattr|list
rows|selectattr('age', 'lt', 'x')|list
rows|groupby('age'), rows|groupby('age')|map('first')|list, rows|groupby('ok', default=false)|length, [{'k': 'A'}, {'k': 'a'}, {'k': 'b'}]|groupby('k')|map(attribute='grouper')|list, [{'k': 'A'}, {'k': 'a'}]|groupby('k', case_sensitive=true)|map(attribute='list')|list
rows|groupby
rows|groupby('ok')
l|batch(2)|list, l|batch(2, 'x')|list, []|batch(3)|list, 'abcde'|batch(2)|map('join')|list, l|batch(5, 0)|list
[1, 2, 3, 4, 5]|slice(2)|list, [1, 2, 3, 4, 5]|slice(3, 'x')|list, []|slice(2)|list, [1]|slice(3)|list
l|min, l|max, w|min, w|max, w|min(true), rows|max(attribute='age'), rows|min(attribute='name'), []|max, d|max, 'hello'|max
[1, 'a']|min
l|sum, rows|sum(attribute='age'), l|sum(start=10), []|sum, [1.5, 2]|sum, [true, true]|sum, [[1], [2]]|sum(start=[])
['a']|sum
'42'|int, '4.7'|int, 'x'|int, 'x'|int(5), 3.9|int, -3.9|int, none|int, true|int, '0x1f'|int(base=16), '1f'|int(base=16), '101'|int(0, 2), ' 12 '|int, '1_000'|int, ''|int, 'inf'|int, [1]|int, '-5'|int, '+5'|int, '1e3'|int, 'nan'|int
undefined_thing|int
'1.5'|float, 'x'|float, 'x'|float(2.0), 3|float, true|float, none|float, '1e3'|float, 'inf'|float, '-inf'|float, 'nan'|float, ' 1.5 '|float, '1_0.5'|float, '.5'|float, '5.'|float, []|float, '1e999'|float
undefined_thing|float
5|string, none|string, [1, 'a']|string, 1.0|string, true|string, d|string, undefined_thing|string
-5|abs, (-5)|abs, (-2.5)|abs, true|abs
'a'|abs
undefined_thing|abs
2.567|round, 2.567|round(2), 2.5|round, 3.5|round, 0.5|round, -2.5|round, 2.675|round(2), 5|round, 15|round(-1), 25|round(-1), 1234.5|round(-2), 2.1|round(method='ceil'), 2.9|round(method='floor'), 2.123|round(2, 'ceil'), 42|round(1, 'floor'), 1e300|round(2), 42.55|round(1), true|round, 0.1|round(20)
2.5|round(method='x')
'a'|round
html|e, html|escape, html|safe, (html|e)|e, html|forceescape, (html|safe)|forceescape, 5|e, none|e
(html|safe) + '<x>', '<x>' + (html|safe), ('<a>'|safe) ~ '<b>', ('a'|safe)|upper, ('<a>'|safe)|replace('a', '<'), '%s'|safe|format('<'), ['<', '>'|safe]|join('&')
[html|safe]
('a'|safe) is escaped, 'a' is escaped, ('a'|safe) is string
'a b&c/d?é'|urlencode, {'a': 'x y', 'b': 1}|urlencode, [('k', '/')]|urlencode, 5|urlencode
'one two, three\'s'|wordcount, ''|wordcount, 'é日 x_y'|wordcount
'%s-%s'|format(1, 2), '%(a)s'|format(a=1), '%d%%'|format(5)
'%s %s'|format(1)
'a'|format(1, a=2)
text|indent, text|indent(2), text|indent(2, true), text|indent(2, blank=true), text|indent('> ', first=true, blank=true), ''|indent, 'a\r\nb'|indent(1), 'a\n'|indent
5|indent
undefined_thing|indent
'foo bar baz qux'|truncate(9), 'foo bar baz qux'|truncate(9, true), 'foo bar baz qux'|truncate(11), 'foo bar baz qux'|truncate(9, false, '...', 0), 'short'|truncate, 'foobarbazquxx'|truncate(6, leeway=0)
'ab'|center(6), 'ab'|center
d|attr('items'), d|attr('a') is defined, namespace(a=1)|attr('a'), s|attr('foo') is defined
'abc'|attr('upper')()
s|nope
s|nope if false
(s|nope) if e else 'ok'
'x'|upper|lower|title
'a' 'b'|upper
-5|abs + 1
1 + '2'|int
'upper' is filter, 'nope' is filter, 'defined' is test, 'nope' is test
l|tojson, d|tojson, s|tojson, u|tojson, html|tojson, none|tojson, true|tojson, 1.0|tojson, 1e20|tojson, 'a"b\\c\n\t\x01\x7f'|tojson, (1, 2)|tojson, {}|tojson, []|tojson, {1: 2, none: 3, true: 4, 1.5: 5}|tojson
d|tojson(indent=2)
d|tojson(indent=0)
[1, [], {}, [2]]|tojson(indent='--')
d|tojson(indent=none), d|tojson(true), u|tojson(ensure_ascii=true), d|tojson(sort_keys=true), d|tojson(separators=(',', ':')), d|tojson(indent=1, separators=(', ', ' = ')), [1]|tojson(false, 2)
undefined_thing|tojson
range(3)|tojson
l|map('string')|tojson
d.items()|tojson
{(1, 2): 3}|tojson
namespace(a=1)|tojson
{'a': 1, 2: 3}|tojson(sort_keys=true)
[undefined_thing]|tojson
(html|safe)|tojson
""")

# ---- tests ----
exprs(r"""
n is number, f is number, t is number, s is number, n is integer, t is integer, f is integer, f is float, n is float, t is boolean, n is boolean
s is string, n is string, l is string, l is iterable, s is iterable, n is iterable, d is iterable, none is iterable, undefined_thing is iterable, range(3) is iterable, d.items() is iterable
l is sequence, s is sequence, d is sequence, (1,) is sequence, n is sequence, none is sequence, undefined_thing is sequence, range(3) is sequence
d is mapping, l is mapping, s is mapping, undefined_thing is mapping, namespace(a=1) is mapping, namespace(a=1) is iterable, namespace() is sequence
none is none, n is none, undefined_thing is none, x is none, x is not none, x is defined
t is true, n is true, 1 is true, false is false, 0 is false, none is false
3 is odd, 4 is even, 3.0 is odd, 9 is divisibleby 3, 9 is divisibleby(4), 10 is divisibleby(num=5)
'a' is odd
none is even
5 is divisibleby 0
1 is eq 1, 1 is equalto 2, 1 is ne 2, 1 is lt 2, 1 is gt 2, 1 is le 1, 2 is ge 3, 1 is lessthan 2, 1 is greaterthan 0, 'a' is eq('a'), 1 is eq(1.0)
1 is lt 'a'
1 is in [1, 2], 'a' is in 'abc', 3 is not in l, 'a' is in d
1 is in 5
none is sameas none, 1 is sameas 1, true is sameas 1, l is sameas l, [] is sameas []
'abc' is lower, 'Abc' is lower, 'ABC' is upper, 5 is upper
s.upper is callable, range is callable, n is callable, undefined_thing is callable, joiner() is callable
not n is none
n is not none and n is defined
n is defined and s is string or false
s is nope
'x' if s is nope else 'y'
1 is defined is defined
l is iterable and l is not string and l is not mapping
1 if n is number else 2
n is divisibleby 7 and t
n is eq n + 0
-1 is number
'a' is in ['a'] + ['b']
d.a is eq d['a']
""")

# ---- statements ----
cases("{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %}", "{% if e %}a{% elif none %}b{% elif [] %}c{% else %}d{% endif %}", "{% if undefined_thing %}a{% endif %}z", "{% if not e %}x{% endif %}", "{% if n, 0 %}tuple{% endif %}",
      "{% if t %}{% if e %}a{% else %}b{% endif %}{% endif %}", "{% if %}{% endif %}", "{% if t %}a{% else %}b{% elif n %}c{% endif %}", "{% if t %}a{% endfor %}",
      "{% for i in l %}{{ i }},{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in undefined_thing %}x{% else %}none{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}",
      "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in [(1,)] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in ['xy', [1, 2]] %}{{ a }}{{ b }}{% endfor %}",
      "{% for i in 5 %}{% endfor %}", "{% for i in none %}{% endfor %}", "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
      "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}", "{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1,1,2,2,1] %}{{ loop.changed(i) }},{% endfor %}", "{% for i in l %}{{ loop.changed() }}{% endfor %}", "{% for i in l %}{{ loop.cycle() }}{% endfor %}", "{% for i in l %}{{ loop }}{% endfor %}", "{% for i in l %}{{ loop.foo }}|{% endfor %}", "{% for i in l %}{{ loop['index'] }}{% endfor %}",
      "{% for i in l if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {{ loop.last }};{% else %}none{% endfor %}", "{% for i in l if i > 9 %}x{% else %}none{% endfor %}", "{% for k, v in d.items() if k != 'a' %}{{ k }}{{ loop.previtem }}{% endfor %}", "{% for i in [1,2,3,4] if i is even %}{{ i }}{% endfor %}", "{% for i in l if loop.index %}{% endfor %}", "{% for i in l|map('string') %}{{ i }}{{ loop.length }}{{ loop.last }}{% endfor %}", "{% for i in l|select %}{{ loop.revindex }}{% endfor %}",
      "{% for m in messages if m.role == 'user' %}{{ m.content }}{{ ' ' if not loop.last }}{% endfor %}", "{% for m in messages %}{% if loop.first and m.role != 'system' %}x{% endif %}{{ m['content'] }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for m in messages[1:] %}{{ loop.index0 }}{{ m.role }}{% endfor %}", "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}", "{% for m in messages|reverse %}{{ m.content }}{{ loop.length }}{% endfor %}",
      "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}<{{ loop(i) }}>{% else %}{{ i }}@{{ loop.depth }}{% endif %}{% endfor %}", "{% for r in [{'n': 1, 'c': [{'n': 2, 'c': []}, {'n': 3}]}] recursive %}{{ r.n }}{% if r.c %}({{ loop(r.c) }}){% endif %}{{ loop.index }}{% else %}empty{% endfor %}", "{% for i in l %}{{ loop(l) }}{% endfor %}", "{% for i in l recursive %}{{ loop(5) }}{% endfor %}", "{% for i in [1] if i recursive %}{{ i }}{% endfor %}",
      "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% else %}no{% endfor %}!", "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% break %}", "{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% for i in l %}{% set a %}x{% if i == 1 %}{% continue %}{% endif %}y{% endset %}{{ a }}{% endfor %}", "{% for i in l %}{% with a = i %}{% if a == 1 %}{% break %}{% endif %}{{ a }}{% endwith %}{% endfor %}", "{% for i in l %}{% filter upper %}a{% if i == 1 %}{% continue %}{% endif %}b{% endfilter %}{% endfor %}", "{% for i in [] %}{% else %}{% break %}{% endfor %}", "{% for j in l %}{% for i in [] %}{% else %}{% break %}{% endfor %}{{ j }}{% endfor %}",
      "{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}", "{% for i in l %}{% set outer = loop %}{% for j in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}", "{% for i in l %}{% set loop = 1 %}{% endfor %}", "{% for loop in l %}{% endfor %}", "{% for i in l %}{% with loop = 5 %}{{ loop }}{% endwith %}{% endfor %}", "{% for i in l %}{% for loop in l %}{% endfor %}{% endfor %}", "{% set loop = 3 %}{{ loop }}", "{{ loop }}|{{ loop is defined }}", "{% for i in l %}{% else %}{{ loop.index }}{% endfor %}", "{% for i in [] %}{% else %}{{ loop is defined }}{% endfor %}",
      "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = [1, 2] %}{{ a }}{{ b }}", "{% set a, b = 1 %}", "{% set a = 1, 2 %}{{ a }}", "{% set a = %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% set a.b = 1 %}", "{% set 'a' = 1 %}", "{% set [a] = [1] %}", "{% set a = a %}{{ a is defined }}", "{% set n = n + 1 %}{{ n }}", "{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}", "{% for i in l %}{% if loop.first %}{% set q = 5 %}{% endif %}{{ q is defined }}{% endfor %}{{ q is defined }}", "{% if t %}{% set z = 1 %}{% endif %}{{ z }}", "{% if e %}{% set z = 1 %}{% endif %}{{ z is defined }}", "{% for i in l %}{% if i == 1 %}{% set n = 99 %}{% endif %}{{ n }} {% endfor %}{{ n }}",
      "{% set ns = namespace(a=0) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.y is defined }}", "{% set ns = namespace(a=1) %}{% set ns.a, b = 5, 6 %}{{ ns.a }}{{ b }}{{ ns }}", "{% set ns.a = 1 %}", "{% set d.a = 1 %}", "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% set ns = namespace(a=1, b='x') %}{{ ns }} {{ [ns] }}", "{% set ns = namespace() %}{% set ns.f %}block{{ n }}{% endset %}{{ ns.f }}", "{% set ns = namespace(found=false) %}{% for m in messages if not ns.found %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{{ m.role }} {% endfor %}", "{% set ns = namespace(l=[]) %}{% for i in l %}{% set ns.l = ns.l + [i * 2] %}{% endfor %}{{ ns.l }}", "{% set ns = namespace(a=1) %}{% set m = ns %}{% set m.a = 2 %}{{ ns.a }}", "{% set ns = namespace(n=1) %}{% set ns.n = ns.n if e else 7 %}{{ ns.n }}",
      "{% set a %}x{{ n }}{% endset %}[{{ a }}]", "{% set a | upper %}abc{% endset %}{{ a }}", "{% set a | trim | replace('b', 'c') %} ab {% endset %}[{{ a }}]", "{% set a %}{% set q = 1 %}{{ q }}{% endset %}{{ a }}{{ q is defined }}", "{% set a %}{% for i in l %}{{ i }}{% endfor %}{% endset %}{{ a|length }}", "{% set a, b %}xy{% endset %}{{ a }}{{ b }}",
      "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", "{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a, b=a * 2, c=n) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{% endmacro %}{{ m(1,2) }}",
      "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m() %}{{ n }}{{ later }}{% endmacro %}{% set later = 'L' %}{{ m() }}", "{% macro m() %}{% set n = 99 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro m(a) %}x{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}", "{% macro m() %}  x  {% endmacro %}[{{ m()|trim }}]{{ m() ~ 'y' }}{{ m()|length }}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% if t %}{% macro m() %}in if{% endmacro %}{% endif %}{{ m() }}", "{% macro m(a) -%}\n  {{ a }}\n{%- endmacro %}{{ m('q') }}",
      "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body{{ n }}{% endcall %}", "{% macro m() %}[{{ caller(1, b=2) }}]{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}", "{% macro m(x) %}{{ x }}{{ caller is defined }}{% endmacro %}{{ m(1) }}{% call m(2) %}z{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% call foo %}x{% endcall %}", "{% call undefined_thing() %}x{% endcall %}", "{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(caller=5) }}", "{% macro m(caller) %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}", "{% macro m(caller=none) %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}", "{% macro o() %}<{{ caller() }}>{% endmacro %}{% macro i() %}({{ caller() }}){% endmacro %}{% call o() %}a{% call i() %}b{% endcall %}c{% endcall %}",
      "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}banana{% endfilter %}", "{% filter indent(2) %}a\nb{% endfilter %}", "{% filter nope %}x{% endfilter %}", "{% filter upper %}{% set q = 1 %}{{ q }}{% endfilter %}{{ q is defined }}",
      "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a is defined }}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}", "{% with a %}{% endwith %}",
      "{% generation %}a{{ n }}{% endgeneration %}", "{% for m in messages %}{% generation %}{{ m.content }}{{ loop.index }}{% set z = 1 %}{% endgeneration %}{{ z is defined }}{% endfor %}", "{%- generation -%} a {%- endgeneration -%} b", "{% generation %}a",
      "{% print n %}", "{% print n, s %}", "{% do l %}", "{% debug %}", "{% trans %}a{% endtrans %}", "{% endfor %}", "{% else %}", "{% if t %}{% for %}{% endif %}", "{% for i in %}{% endfor %}", "{% for in l %}{% endfor %}", "{% for i l %}{% endfor %}", "{% macro %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% set %}", "{% 5 %}", "{% if t %}{{ endif }}", "{{ if }}|{{ for }}", "{{ true }}{{ True }}{{ none }}{{ None }}{{ false }}{{ False }}", "{{ none.x }}|{{ true.x }}",
      "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}", "{% set j = joiner() %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}", "{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}c", "{% set g = l|map('string') %}{{ g|list }}{{ g|list }}", "{% set g = rows|selectattr('ok') %}{% for r in g %}{{ r.name }}{% endfor %}{% for r in g %}again{% endfor %}{{ g is iterable }}{{ g is sequence }}{{ g is defined }}", "{% set g = l|select %}{{ 1 in g }}{{ g|list }}", "{{ (l|select)[0] }}|", "{{ (l|select)|length }}", "{% set g = rows|map(attribute='nope.deep') %}unused", "{{ rows|map(attribute='nope.deep')|list }}", "{% for i in l|reverse %}{{ i }}{{ loop.length }}{% endfor %}",
      "{{ s(1) }}", "{{ range(*[1, 4])|list }}", "{{ dict(**{'a': 1}) }}", "{{ '{} {x}'.format(*[1], **{'x': 2}) }}", "{{ dict(a=1, a=2) }}", "{{ range(*5) }}", "{{ dict(**5) }}", "{{ '{}'.format(*[1], 2) }}", "{{ dict(a=1, 2) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(*[1, 2, 3], **{'c': 4}) }}", "{{ range(3,)|list }}", "{{ dict(,) }}", "{{ f.a.b }}",
      "{{ messages[0]['role'] == 'system' and messages | length > 1 }}", "{{ (messages | selectattr('role', 'equalto', 'user') | list)[-1].content }}", "{{ messages[-1].role }}{{ messages[messages|length - 1].content }}", "{{ messages|map(attribute='role')|join(',') }}", "{{ 'a' if messages[0].tool_calls else 'b' }}", "{{ messages[0].tool_calls is defined and messages[0].tool_calls is not none }}", "{{ messages[0].get('name', 'anon') }}", "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}", "{{ messages[0]['missing'] + 'x' }}", "{{ messages[0].missing ~ 'x' }}", "{{ messages[9] }}", "{{ messages[9].role }}",
      "{% include 'a' %}", "{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}")

# Values that JSON brings and templates cannot write.
for v in ({"a": 12345678901234567890, "b": -0.0, "c": 1e400, "d": 1.0, "e": 123456789.123456789}, {"a": {"1": 1, "": 2, "a b": 3}, "b": [[], {}, [[]]], "c": "", "d": "\u0000\u001f\u2028\ufeff", "e": "é\u0301"}):
    for t in ("{{ a }}|{{ b }}|{{ c }}|{{ d }}|{{ e }}", "{{ a|tojson }}|{{ b|tojson }}|{{ c|tojson }}|{{ d|tojson }}|{{ e|tojson(ensure_ascii=true) }}", "{{ [a, b, c, d, e] }}", "{{ a is mapping }}{{ a is integer }}{{ d is float }}{{ a == a }}"): case(t, v)
case("{{ ['a\\u200bb', '\\xad', '\\u0378', 'é', '\\x85', '\\U0001F600', '\\U000E0001'] }}")


# ---- random expressions ----
class Random:
    """Expressions that mostly make sense, from a fixed seed."""
    def __init__(self, seed): self.r = random.Random(seed)
    def atom(self):
        return self.r.choice(["n", "m", "f", "t", "x", "s", "e", "u", "l", "w", "d", "rows", "undefined_thing", "1", "0", "-2", "2.5", "'a'", "'b c'", "''", "true", "none", "[]", "[1, 'a']", "{}", "{'a': 1}", "(1, 2)", "text", "nested.a", "messages[1]", "range(3)", "d.items()", "'%s'", "html", "'12'"])
    def expr(self, depth):
        r = self.r
        if depth == 0: return self.atom()
        k = r.randrange(12); sub = lambda: self.expr(depth - 1)
        if k < 2: return f"({sub()} {r.choice(['+', '-', '*', '/', '//', '%', '~', '~', '+'])} {sub()})"
        if k == 2: return f"({sub()} {r.choice(['==', '!=', '<', '>=', 'in', 'not in', 'and', 'or'])} {sub()})"
        if k == 3: return f"({sub()} if {sub()} else {sub()})"
        if k == 4: return f"(not {sub()})" if r.random() < .5 else f"(-{sub()})"
        # Slices of variables only: jinja2 folds constants with other rules (1[:] is undefined, n[:] an error).
        if k == 5: return r.choice(["s", "u", "l", "w", "n", "text", "rows", "e"]) + "[" + r.choice(["1:", ":-1", "::-1", "::2", "-2:", "3:1:-1"]) + "]"
        if k == 10: return sub() + "[" + r.choice(["0", "-1", "'a'", sub()]) + "]"
        if k == 6: return "(" + sub() + " is " + r.choice(TEST_ENDS) + ")"
        if k == 7: return sub() + "." + r.choice(METHOD_ENDS)
        if k == 8: return f"[{sub()}, {sub()}]"
        return "(" + sub() + "|" + r.choice(FILTER_ENDS) + ")"


TEST_ENDS = ["defined", "none", "string", "number", "mapping", "iterable", "sequence", "not none", "even", "boolean", "true", "lower", "eq(1)", "in([1])", "integer", "callable"]
METHOD_ENDS = ["upper()", "a", "b", "strip()", "split()", "items()", "get('a')", "keys()|list", "startswith('a')", "name", "count('a')", "title()", "copy()"]
FILTER_ENDS = ["length", "list", "join", "join(',')", "first", "last", "upper", "trim", "tojson", "string", "default(1)", "default('z', true)", "sort", "unique|list", "reverse|list", "int", "float", "abs", "sum", "min", "max",
               "round", "title", "capitalize", "replace('a', 'b')", "e", "map('string')|list", "select|list", "reject('none')|list", "map(attribute='a')|list", "selectattr('a')|list", "batch(2)|list", "dictsort", "items|list",
               "indent", "wordcount", "truncate(5)", "groupby(0)", "count", "tojson(indent=1)", "slice(2)|list", "urlencode", "safe", "format(1)"]

class RandomTemplate(Random):
    """Statements with white space and signs in all places."""
    def text(self): return "".join(self.r.choice(["a", "b ", " ", "  ", "\n", "\n\n", "\n  ", "\t", "x", "\r\n", "{", "}", "%", "#", "-", "\n   \n"]) for _ in range(self.r.randrange(5)))
    def tag(self, inside): return "{%" + self.r.choice(["", "", "-", "+"]) + self.r.choice([" ", ""]) + inside + self.r.choice([" ", "", "\n"]) + self.r.choice(["", "", "-", "+"]) + "%}"
    def body(self, depth, loop): return "".join(self.text() + self.item(depth, loop) for _ in range(self.r.randrange(1, 4))) + self.text()
    def name(self): return self.r.choice(["v", "k", "q", "n", "ns.a", "ns.b"])
    def item(self, depth, loop):
        r = self.r
        k = r.randrange(14 if depth > 0 else 5)
        if k == 0: return "{{" + r.choice(["", "-", "+"]) + " " + r.choice([self.expr(1), self.name(), "loop.index", "loop.last", "loop.length", "loop.previtem"]) + " " + r.choice(["", "-"]) + "}}"
        if k == 1: return "{#" + r.choice(["", "-", "+"]) + self.text().replace("#", "") + " " + r.choice(["", "-", "+"]) + "#}"
        if k == 2: return self.tag("set " + self.name() + " = " + self.expr(1))
        if k == 3: return self.tag("raw") + self.text() + self.tag("endraw")
        if k == 4: return self.tag("if " + r.choice(["v", "loop.first", "n > 5", "q is defined"])) + self.text() + (self.tag(r.choice(["break", "continue"])) if loop else "") + self.tag("endif")
        sub = lambda l=loop: self.body(depth - 1, l)
        if k < 8:
            head = r.choice(["for v in l", "for v in l if v > 1", "for k, v in d.items()", "for v in messages[1:]", "for v in []", "for v in w|select", "for v in u", "for k in range(n)", "for v in [1, [2]] recursive"])
            return self.tag(head) + sub(True) + (self.tag("else") + sub() if r.random() < .2 and "recursive" not in head else "") + self.tag("endfor")
        if k < 10: return self.tag("if " + self.expr(1)) + sub() + (self.tag("elif " + self.expr(1)) + sub() if r.random() < .3 else "") + (self.tag("else") + sub() if r.random() < .4 else "") + self.tag("endif")
        if k == 10: return self.tag("set " + self.name() + r.choice(["", " | upper", " | trim"])) + sub() + self.tag("endset")
        if k == 11: return self.tag("filter " + r.choice(["upper", "trim", "replace('a', 'z')"])) + sub() + self.tag("endfilter")
        if k == 12: return self.tag("macro k(v, q=1)") + sub(False) + self.tag("endmacro") + "{{ k(" + r.choice(["", "1", "1, 2", "q=n"]) + ") }}"
        return self.tag("with v = " + self.expr(1) + r.choice(["", ", k = n"])) + sub() + self.tag("endwith")


def random_cases(seed, n):
    rand, template = Random(seed), RandomTemplate(seed)
    for i in range(n): case("{{ " + rand.expr(rand.r.choice([1, 1, 2, 2, 3])) + " }}")
    for i in range(n // 3): case("{% set ns = namespace(a=0) %}" + template.body(template.r.choice([1, 1, 2]), False))



def main(path, seed, n):
    """Another seed and more cases make a longer search for differences."""
    random_cases(seed, n)
    warnings.simplefilter("ignore")
    out, seen, ok, bad = [json.dumps({"vars": VARS}, ensure_ascii=False)], set(), 0, 0
    for t, v, o in CASES:
        key = json.dumps([t, v, o])
        if key in seen: continue
        seen.add(key)
        line = {"t": t}
        if v is not None: line["v"] = v
        if o is not None: line["o"] = o
        try:
            if o is None:
                template = _compile_jinja_template(t)
            else:
                template = ImmutableSandboxedEnvironment(trim_blocks=o[0], lstrip_blocks=o[1], keep_trailing_newline=o[2]).from_string(t)
            line["r"] = template.render(**json.loads(json.dumps(VARS if v is None else v)))
            if re.search(r" at 0x[0-9a-f]+>|<built-in method|<bound method|<function ", line["r"]): continue   # addresses
            line["r"].encode("utf-8")
            ok += 1
        except UnicodeEncodeError:
            continue
        except Exception as e:
            line["e"] = f"{type(e).__name__}: {e}"
            if " at 0x" in line["e"]: line["e"] = type(e).__name__
            bad += 1
        out.append(json.dumps(line, ensure_ascii=False).replace(": Infinity", ": 1e400"))
    with open(path, "w", encoding="utf-8") as f: f.write("\n".join(out) + "\n")
    print(f"{ok} rendered, {bad} errors, {sum(map(len, out)) // 1024} KB")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or [os.path.join(HERE, "text", "jinja_cases.jsonl")]), *map(int, sys.argv[2:4] or (20240229, 200)))
