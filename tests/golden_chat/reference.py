"""Renders every template of a folder with every conversation, straightforwardly: what weir's own rendering is compared
with. As a program it writes the results as JSON:

    reference.py TEMPLATES OUT.json

It needs jinja2 only. Its set-up is written from Hugging Face's documentation of chat templates and their
`render_jinja_template`; make.py does the same with transformers itself.
"""

import datetime
import functools
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from conversations import conversations

NOW_S = 1753500000.5  # what strftime_now takes for now
BOS, EOS = "<s>", "</s>"
FEW = ("plain", "multi-turn", "tools offered, system", "documents")


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        start = next(parser.stream)
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("same"), [], [], inside, lineno=start.lineno)

    def same(self, caller):
        return caller()


@functools.lru_cache
def compiled(source):
    def stop(message):
        raise jinja2.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    env.globals.update(
        raise_exception=stop, strftime_now=lambda f: datetime.datetime.fromtimestamp(NOW_S).strftime(f)
    )
    return env.from_string(source)


def render(source, variables):
    given = {"tools": None, "documents": None, "bos_token": BOS, "eos_token": EOS, **variables}
    return compiled(source).render(given)


def outcome(render, source, variables):
    """{"text"}, or {"raises"}: the template's own words, or {"fails"}: how another error's message begins."""
    try:
        return {"text": render(source, variables)}
    except Exception as e:
        # By name: transformers may use another jinja2 than ours.
        if type(e).__name__ == "TemplateError":
            return {"raises": str(e.message)}
        of_jinja = any(c.__name__ == "TemplateError" for c in type(e).__mro__)
        return {"fails": str(e) if of_jinja else f"{type(e).__name__}: {e}"}


def render_folder(folder, render, few=False):
    all_of_them = conversations()
    chosen = {k: all_of_them[k] for k in FEW} if few else all_of_them
    templates = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes().decode()
        templates[path.name] = {name: outcome(render, source, v) for name, v in chosen.items()}
    return {"now_s": NOW_S, "bos": BOS, "eos": EOS, "conversations": chosen, "templates": templates}


def write(result, path):
    pathlib.Path(path).write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    write(render_folder(sys.argv[1], render), sys.argv[2])
