// A shared library wants a source of its own; its contents come from the static modules.
