#include "src/text/pre_tokenizer.hpp"

// What `tokenizer.ggml.pre` names. The expressions are those of the families' own tokenizer.json files; which name goes
// with which is a convention of llama.cpp's conversion script and loader (src/llama-vocab.cpp).
namespace troupe::text {
namespace {

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SYMBOLS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CAPITALS "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define SMALLS "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED_WORD(TAIL) \
  "[^\\r\\n\\p{L}\\p{N}]?" CAPITALS "*" SMALLS "+" TAIL "|[^\\r\\n\\p{L}\\p{N}]?" CAPITALS "+" SMALLS "*" TAIL

constexpr const char* gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* llama3 = CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" SYMBOLS "|" SPACES;
constexpr const char* qwen2 = CONTRACTIONS "|" WORD "|\\p{N}|" SYMBOLS "|" SPACES;
constexpr const char* qwen35 =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES;
constexpr const char* no_contractions = WORD "|\\p{N}|" SYMBOLS "|" SPACES;
constexpr const char* o200k = CASED_WORD(CONTRACTIONS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
constexpr const char* tekken = CASED_WORD("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
constexpr const char* youtu_words = CASED_WORD(CONTRACTIONS "?") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
constexpr const char* deepseek_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" SPACES;
constexpr const char* cjk = "[一-龥぀-ゟ゠-ヿ]+";
constexpr const char* newlines_apart = R"([^\n]+|[\n]+)";
constexpr const char* bloom_words = " ?[^(\\s|.,!?…。，、।۔،)]+";
// Letters that have case, as DeepSeek's first tokenizer lists them; by number those that normalization would change.
constexpr const char* deepseek_llm_words =
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\\x{1F7D}ᾀ-"
    "ᾴᾶ-ᾼ\\x{1FBE}ῂ-ῄῆ-ῌῐ-\\x{1FD3}ῖ-\\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-"
    "ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
// Han is cut out first; what is left of the classes excludes it by the look-ahead.
constexpr const char* kimi_k2 =
    "\\p{Han}+|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})" CAPITALS ")*(?:(?!\\p{Han})" SMALLS ")+" CONTRACTIONS
    "?|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})" CAPITALS ")+(?:(?!\\p{Han})" SMALLS ")*" CONTRACTIONS
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES;

constexpr const char* jais2 = CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" SYMBOLS
                                           "|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!"
                                           "\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)"
                                           "|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}";

constexpr digits_step digits{true};

enum trait : unsigned { plain = 0, whole = 1, bos = 2, nfc = 4, without_bos = 8, raw = 16 };

struct family {
  std::vector<std::string_view> names;
  unsigned traits;
  std::vector<std::variant<const char*, digits_step, digit_groups_step>> steps;
};

const std::vector<family>& families() {
  static const std::vector<family> all = {
      {{"default"}, plain, {R"([\p{P}\$\+<=>\^~\|]+)", gpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {{"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe",
        "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais", "trillion",
        "granite-docling"},
       plain,
       {gpt2}},
      {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
       plain,
       {digits, gpt2}},
      {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
       whole | bos,
       {llama3}},
      {{"dbrx", "smaug-bpe"}, plain, {llama3}},
      {{"chatglm-bpe"}, without_bos, {llama3}},
      {{"glm4", "glm5"}, whole | without_bos, {llama3}},
      {{"qwen2"}, nfc, {qwen2}},
      {{"deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"},
       plain,
       {qwen2}},
      {{"qwen35"}, plain, {qwen35}},
      {{"ufakzeka"}, plain, {no_contractions}},
      {{"laguna"}, plain, {newlines_apart, qwen2}},
      {{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, plain, {o200k}},
      {{"granite-embed-multi-97m"}, whole, {o200k}},
      {{"tekken"}, whole | bos, {tekken}},
      {{"tiny_aya", "cohere2moe"}, plain, {digit_groups_step{false}, o200k}},
      {{"youtu"},
       whole,
       {"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        youtu_words}},
      {{"deepseek-llm"},
       plain,
       {R"([\r\n])", deepseek_llm_words, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", R"((?<!\s)\s+$)",
        "[一-龥ࠀ-一가-퟿]+", R"(\p{N}+)"}},
      {{"deepseek-coder"},
       plain,
       {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[一-龥ࠀ-一가-퟿]+", R"(\p{N})"}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, plain, {R"(\p{N}{1,3})", cjk, deepseek_words}},
      {{"falcon"}, plain, {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2, "[0-9][0-9][0-9]"}},
      {{"bloom", "poro-chat", "gpt3-finnish"}, plain, {bloom_words}},
      {{"viking"}, plain, {bloom_words, digits}},
      {{"chameleon"},
       bos,
       {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", R"(([\t\n]|    |  ))", digits,
        R"([\p{P}!-/:-@\[-`{-~])", gpt2}},
      {{"superbpe"}, plain, {R"(\p{N}+)", digit_groups_step{true}}},
      {{"bailingmoe", "bailingmoe2", "llada-moe"},
       plain,
       {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"}},
      {{"seed-coder"}, plain, {CONTRACTIONS "|" WORD "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
      {{"exaone-moe"},
       plain,
       {CONTRACTIONS
        "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|"
        "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
      {{"minicpm5"}, whole, {R"(\p{N}{1,3})", CONTRACTIONS "|" WORD "|\\p{N}+|" SYMBOLS "|" SPACES}},
      {{"k2-horizon"},
       plain,
       {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}\\x{200C}\\x{200D}]+|\\p{N}{1,3}|" SYMBOLS "|" SPACES}},
      {{"jais-2"}, plain, {jais2}},
      {{"kimi-k2"}, plain, {kimi_k2}},
      {{"gemma4", "granite-embed-multi-311m"}, raw | bos, {newlines_apart}},
      {{"sarvam-moe"}, raw, {newlines_apart}},
  };
  return all;
}

const family* find_family(std::string_view name) {
  for (const family& f : families())
    for (const std::string_view n : f.names)
      if (n == name) return &f;
  return nullptr;
}

}  // namespace

result<named_pre_tokenizer> find_pre_tokenizer(std::string_view name) {
  const family* f = find_family(name.empty() ? "default" : name);
  if (!f)
    return failure(errc::unsupported, "the pre-tokenizer \"" + std::string(name.substr(0, 100)) +
                                          "\" (tokenizer.ggml.pre) is not known: use the model's folder with its "
                                          "tokenizer.json instead");
  named_pre_tokenizer out;
  out.ignore_merges = f->traits & whole;
  out.add_bos = f->traits & bos;
  out.nfc = f->traits & nfc;
  out.no_bos = f->traits & without_bos;
  out.characters = f->traits & raw;
  for (const auto& step : f->steps) {
    if (const auto* digits = std::get_if<digits_step>(&step)) {
      out.steps.push_back(*digits);
    } else if (const auto* groups = std::get_if<digit_groups_step>(&step)) {
      out.steps.push_back(*groups);
    } else {
      auto pattern = split_pattern::make(std::get<const char*>(step));
      if (!pattern) return pattern.take_error();
      out.steps.push_back(split_step{std::move(*pattern), split_step::behavior::isolated, false});
    }
  }
  return out;
}

std::vector<std::string_view> pre_tokenizer_names() {
  std::vector<std::string_view> out;
  for (const family& f : families()) out.insert(out.end(), f.names.begin(), f.names.end());
  return out;
}

}  // namespace troupe::text
