"""Renders chat templates for weir: the other end of src/model/chat_worker.c, which carries this text and runs it.

On file descriptor 0 is a socket. Each frame on it is a length (4 bytes, little-endian) and a kind (1 byte), then that
many bytes. weir sends "s" (set up, once or again) with a JSON object

    templates   name to source; "default" must be among them
    variables   what every render sees unless it brings its own: bos_token, eos_token, ...
    limits      render_s, memory_bytes, max_output_bytes; fixed_time_s or null

and "r" (render) with a JSON object of variables. The answer to either is one frame: "o" with the text (for "s" empty),
"t" the template or its input is at fault, "y" a template does not compile, "l" a limit was met; with a message.
The first frame, before anything is asked, is "h" with a JSON object about this process, or "x": jinja2 is missing.
The one argument is the limit on memory in bytes.

The settings are those of Hugging Face transformers, so that a template gives here what it gives there. Before it sees
a template this process gives up, for good, opening files and sockets, starting processes and memory above its limit.
"""

import gc
import json
import os
import re
import signal
import struct
import sys


def send(kind, payload=b""):
    frame = memoryview(struct.pack("<IB", len(payload), kind) + payload)
    while frame:
        frame = frame[os.write(0, frame) :]


def receive_exactly(n):
    data = bytearray()
    while len(data) < n:
        part = os.read(0, min(n - len(data), 1 << 20))
        if not part:
            os._exit(0)
        data += part
    return data


def receive():
    n, kind = struct.unpack("<IB", receive_exactly(5))
    return kind, receive_exactly(n)


try:
    import jinja2
    import jinja2.compiler
    import jinja2.constants
    import jinja2.debug
    import jinja2.exceptions
    import jinja2.ext
    import jinja2.idtracking
    import jinja2.nodes
    import jinja2.parser
    import jinja2.sandbox
except ImportError as missing:
    send(ord("x"), str(missing).encode())
    os._exit(0)

# Also what templates make jinja2 and Python import on first use: there is no opening files later.
import ctypes
import datetime
import encodings.ascii
import encodings.latin_1
import html
import pprint
import resource
import textwrap
import unicodedata

# -- Jinja2 3.1.6, also where Debian's is older -------------------------------------------------------------------


class Parser(jinja2.parser.Parser):
    """Takes attributes of namespaces in `set a, ns.b = ...`."""

    def parse_assign_target(self, with_tuple=True, name_only=False, extra_end_rules=None, with_namespace=False):
        inherited = super().parse_assign_target
        if not with_namespace or not with_tuple:
            return inherited(with_tuple, name_only, extra_end_rules, with_namespace)
        items = [self.parse_one_target()]
        while self.stream.skip_if("comma"):
            items.append(self.parse_one_target())
        return items[0] if len(items) == 1 else jinja2.nodes.Tuple(items, "store", lineno=items[0].lineno)

    def parse_one_target(self):
        if self.stream.current.type == "name" and self.stream.look().type == "dot":
            return super().parse_assign_target(with_namespace=True)
        target = self.parse_primary()
        target.set_ctx("store")
        if not target.can_assign():
            self.fail(f"can't assign to {type(target).__name__.lower()!r}", target.lineno)
        return target


class CodeGenerator(jinja2.compiler.CodeGenerator):
    """Checks that the targets are namespaces ahead of the assignment, so that it may be of several."""

    def visit_Assign(self, node, frame):
        for target in {t.name: t for t in node.find_all(jinja2.nodes.NSRef)}.values():
            self.writeline(f"if not isinstance({frame.symbols.ref(target.name)}, Namespace):")
            self.indent()
            self.writeline('raise TemplateRuntimeError("cannot assign attribute on non-namespace object")')
            self.outdent()
        super().visit_Assign(node, frame)

    def visit_NSRef(self, node, frame):
        self.write(f"{frame.symbols.ref(node.name)}[{node.attr!r}]")


def branch_update(symbols, branches):
    """A variable set in a branch is looked up outside first, whatever the other branches do."""
    new = set().union(*(b.stores for b in branches)) - symbols.stores
    for b in branches:
        symbols.refs.update(b.refs)
        symbols.loads.update(b.loads)
        symbols.stores.update(b.stores)
    for name in new:
        outer = symbols.parent.find_ref(name) if symbols.parent else None
        symbols.loads[symbols.find_ref(name)] = (
            (jinja2.idtracking.VAR_LOAD_RESOLVE, name) if outer is None else (jinja2.idtracking.VAR_LOAD_ALIAS, outer)
        )


def to_int(value, default=0, base=10):
    try:
        return jinja2.filters.do_int(value, default, base)
    except OverflowError:
        return default


# -- Hugging Face's settings --------------------------------------------------------------------------------------


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant says; here it is only its content."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

    def content(self, caller):
        return caller()


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    code_generator_class = CodeGenerator

    def _parse(self, source, name, filename):
        return Parser(self, source, name, filename).parse()

    def is_safe_attribute(self, obj, attr, value):
        if isinstance(obj, list) and attr in ("clear", "pop"):
            return False
        return super().is_safe_attribute(obj, attr, value)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def create_environment(fixed_time_s):
    def strftime_now(format):
        now = datetime.datetime.now() if fixed_time_s is None else datetime.datetime.fromtimestamp(fixed_time_s)
        return now.strftime(format)

    env = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.filters["int"] = to_int
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


# -- The sandbox around Python ------------------------------------------------------------------------------------

# What an interpreter that has what it needs still calls: its socket, memory, time, locks, signals, its end.
ALLOWED_CALLS = {
    # machine: (AUDIT_ARCH, numbers), from asm/unistd.h
    "x86_64": (0xC000003E, (0, 1, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 38, 60, 96, 131, 201, 202, 219, 228, 231, 318)),
    "aarch64": (0xC00000B7, (63, 64, 93, 94, 98, 103, 113, 124, 128, 132, 134, 135, 139, 169, 214, 215, 216, 222, 226, 233, 278)),
}


def filter_calls():
    """Refuses all other system calls with EPERM, by seccomp. Returns whether it could."""
    if os.uname().machine not in ALLOWED_CALLS:
        return False
    arch, calls = ALLOWED_CALLS[os.uname().machine]
    load, equal, answer, allow, refuse = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
    code = [(load, 0, 0, 4), (equal, 0, len(calls) + 1, arch), (load, 0, 0, 0)]
    code += [(equal, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    code += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *c) for c in code))
    header = struct.pack("@HP", len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    set_seccomp, mode_filter, no_new_privileges = 22, 2, 38
    zero = ctypes.c_ulong(0)
    if libc.prctl(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero):
        return False
    return libc.prctl(set_seccomp, ctypes.c_ulong(mode_filter), ctypes.c_char_p(header), zero, zero) == 0


def close_doors(memory_bytes):
    def limit(what, value):
        try:
            resource.setrlimit(what, (value, value))
        except (OSError, ValueError):
            pass  # already lower, or not this system's to give

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_NPROC, 0)
    limit(resource.RLIMIT_NOFILE, 3)
    limit(resource.RLIMIT_AS, memory_bytes)
    return filter_calls()


# -- Errors -------------------------------------------------------------------------------------------------------


def as_bytes(text, at_most=None):
    """UTF-8; lone surrogates, which JSON can spell but text cannot hold, become U+FFFD."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = re.sub("[\ud800-\udfff]", "\ufffd", text).encode()
    if at_most is not None and len(data) > at_most:
        data = data[:at_most].decode(errors="ignore").encode()
    return data


def template_line(error):
    """The line of the template where an error arose, from the traceback that jinja2 rewrites."""
    line, at = None, error.__traceback__
    while at:
        if at.tb_frame.f_code.co_filename == "<template>":
            line = at.tb_lineno
        at = at.tb_next
    return line


def fail(kind, message):
    send(ord(kind), as_bytes(message.replace("\0", "\ufffd"), 480))


def report(error, limits):
    """Answers with what went wrong, in the words of the template where it has some."""
    if isinstance(error, MemoryError):
        return fail("l", f"the template needs more than {limits['memory_bytes'] >> 20} MiB of memory")
    if isinstance(error, jinja2.exceptions.TemplateSyntaxError):
        return fail("y", f"line {error.lineno}: {error.message}")
    if type(error) is jinja2.exceptions.TemplateError:
        return fail("t", str(error.message))
    message = str(error) or type(error).__name__
    if not isinstance(error, jinja2.exceptions.TemplateError):
        message = f"{type(error).__name__}: {message}"
    line = template_line(error)
    fail("t", message if line is None else f"{message[:400]} (line {line} of the template)")


class Refused(Exception):
    """Variables that no template can be given."""


class TooLong(Exception):
    """More text than max_output_bytes."""


def parse_variables(data):
    def constant(name):
        raise Refused(f"{name} is not JSON")

    try:
        variables = json.loads(data.decode(), parse_constant=constant)
    except RecursionError:
        raise Refused("the variables are nested too deeply") from None
    except ValueError as e:
        raise Refused(f"the variables are not JSON: {e}") from None
    if not isinstance(variables, dict):
        raise Refused("the variables are not a JSON object")
    return variables


# -- The two requests ---------------------------------------------------------------------------------------------


class Renderer:
    def __init__(self, setup, before):
        self.limits = setup["limits"]
        self.common = {"tools": None, "documents": None, "add_generation_prompt": False, **setup["variables"]}
        self.env = before.env if before else create_environment(self.limits["fixed_time_s"])
        self.templates = {}
        for name, source in setup["templates"].items():
            old = before.templates.get(name) if before else None
            compiled = old[1] if old and old[0] == source else self.env.from_string(source)
            self.templates[name] = (source, compiled)

    def render(self, data):
        variables = parse_variables(data)
        name = "tool_use" if variables.get("tools") is not None and "tool_use" in self.templates else "default"
        parts, length, most = [], 0, self.limits["max_output_bytes"]
        for part in self.templates[name][1].generate({**self.common, **variables}):
            length += len(part)
            if length > most:
                raise TooLong(most)
            parts.append(part)
        text = as_bytes("".join(parts))
        if len(text) > most:
            raise TooLong(most)
        send(ord("o"), text)


def warm_up():
    """What Python loads late, loaded: time zone, codecs, jinja2's parts."""
    env = create_environment(0)
    env.from_string(
        "{{ strftime_now('%d %b %Y %Z') }}{{ [{}] | tojson(indent=1) }}{{ 'a b' | wordwrap(1) | title | urlencode }}"
        "{{ {} | pprint }}{% generation %}{% for i in [1] %}{% continue %}{% endfor %}{% endgeneration %}"
    ).render()
    try:
        env.from_string("{{ a.b.c }}").render()
    except jinja2.exceptions.UndefinedError as e:
        template_line(e)


def guard(seconds):
    """The system ends this process if a request takes longer, also if weir no longer lives to do it."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main():
    jinja2.idtracking.Symbols.branch_update = branch_update
    warm_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    filtered = close_doors(int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    send(ord("h"), json.dumps({"python": sys.version.split()[0], "jinja2": jinja2.__version__, "seccomp": filtered}).encode())
    limits, renderer = {"memory_bytes": 0}, None
    while True:
        kind, data = receive()
        try:
            if kind == ord("s"):
                setup = json.loads(data)
                limits = setup["limits"]
                guard(limits["render_s"] + 20)
                renderer = Renderer(setup, renderer)
                send(ord("o"))
            else:
                guard(limits["render_s"] + 2)
                renderer.render(data)
        except Refused as e:
            fail("t", str(e))
        except TooLong as e:
            fail("l", f"the prompt is longer than {e} bytes")
        except Exception as e:
            report(e, limits)
        guard(0)
        data = None


main()
