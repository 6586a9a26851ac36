"""The conversations that templates are rendered with: name to the variables of one render."""

GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a place, in "plain" words <now> & later',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Town, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1, "default": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "details": {"type": "array", "items": {"type": "string"}},
                "near": {"type": ["object", "null"], "properties": {"lat": {"type": "number"}}},
            },
            "required": ["place"],
        },
        "return": {"type": "string"},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds numbers.\n\nAll of them.",
        "parameters": {"type": "object", "properties": {"terms": {"type": "array", "items": {"type": "number"}}}},
    },
}
NO_PARAMETERS = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}

SYSTEM = {"role": "system", "content": "You are terse. "}
HELLO = {"role": "user", "content": "Hello! "}
ANSWER = {"role": "assistant", "content": "Hi, how can I help?"}
UNICODE = {"role": "user", "content": "日本語 \"quoted\" 'single' <b>&amp;</b> \\n \U0001f600 \u200d \u00a0.\n\n  indented\t"}


def call(name, arguments, id="call_123456"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# Nine letters and digits, as Mistral's templates want it.
NINE = "abcDEF123"


def tool_turns(arguments, id=NINE):
    return [
        {"role": "user", "content": "Will it rain in Zürich?"},
        {"role": "assistant", "content": None, "tool_calls": [call("get_weather", arguments, id)]},
        {"role": "tool", "tool_call_id": id, "name": "get_weather", "content": '{"rain": true, "mm": 2.50}'},
        {"role": "assistant", "content": "Yes, a little."},
        {"role": "user", "content": "And tomorrow?"},
    ]


OBJECT = {"place": "Zürich", "days": 2, "details": ["wind", "rain"], "near": None, "exact": True, "x": 1.5e-7}
STRING = '{"place": "Zürich", "days": 2}'


def conversations():
    c = {}

    def add(name, messages, **more):
        c[name] = {"messages": messages, "add_generation_prompt": True, **more}

    add("plain", [HELLO])
    add("plain, no prompt", [HELLO], add_generation_prompt=False)
    add("system", [SYSTEM, HELLO])
    add("developer", [{"role": "developer", "content": "Be brief."}, HELLO])
    add("multi-turn", [SYSTEM, HELLO, ANSWER, UNICODE, {"role": "assistant", "content": ""}, HELLO])
    add("multi-turn, no system", [HELLO, ANSWER, UNICODE])
    add("finished", [HELLO, ANSWER], add_generation_prompt=False)
    add("continued by the assistant", [HELLO, {"role": "assistant", "content": "Well, "}])
    add("empty", [])
    add("wrong order", [HELLO, HELLO, SYSTEM, ANSWER, ANSWER])
    add("unknown role", [HELLO, {"role": "critic", "content": "Hm."}])
    add("parts", [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "One "}, {"type": "text", "text": "two"}]}])
    add("all in parts", [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in
                         (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"))])
    add("image", [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"},
                                               {"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}])
    add("audio and video", [{"role": "user", "content": [{"type": "audio"}, {"type": "video"}, {"type": "text", "text": "?"}]}])

    add("tools offered", [HELLO], tools=[GET_WEATHER, ADD])
    add("tools offered, system", [SYSTEM, HELLO], tools=[GET_WEATHER, NO_PARAMETERS])
    add("tools empty", [HELLO], tools=[])
    add("tool call, object", tool_turns(OBJECT), tools=[GET_WEATHER])
    add("tool call, string", tool_turns(STRING), tools=[GET_WEATHER])
    add("tool call, other id", [SYSTEM, *tool_turns(OBJECT, "call_1")], tools=[GET_WEATHER])
    add("tool call, tools absent", tool_turns(OBJECT))
    add("tool call, last", tool_turns(OBJECT)[:2], tools=[GET_WEATHER], add_generation_prompt=False)
    add("tool result, last", tool_turns(OBJECT)[:3], tools=[GET_WEATHER, ADD])
    add("tool calls, parallel", [
        HELLO,
        {"role": "assistant", "content": "Both.", "tool_calls": [call("get_weather", OBJECT, NINE), call("add", {"terms": [1, 2.0]}, "abcDEF124")]},
        {"role": "tool", "tool_call_id": NINE, "name": "get_weather", "content": "dry"},
        {"role": "tool", "tool_call_id": "abcDEF124", "name": "add", "content": "3.0"},
    ], tools=[GET_WEATHER, ADD])
    add("tool call, no content key", [HELLO, {"role": "assistant", "tool_calls": [call("now", {}, NINE)]},
                                      {"role": "tool", "tool_call_id": NINE, "content": "12:00"}], tools=[NO_PARAMETERS])
    add("tool call, unlike function", [HELLO, {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"terms": []}}]},
                                       {"role": "tool", "content": [{"type": "text", "text": "0"}]}], tools=[ADD])
    add("tool_calls empty", [HELLO, {"role": "assistant", "content": "Hi", "tool_calls": []}, HELLO])

    think = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2\nmake 4."}
    add("thinking, field", [HELLO, think, HELLO])
    add("thinking, other field", [HELLO, {"role": "assistant", "content": "4", "thinking": "2 and 2."}, HELLO])
    add("thinking, in the text", [HELLO, {"role": "assistant", "content": "<think>\n2 and 2\n</think>\n\n4"}, HELLO])
    add("thinking, last", [HELLO, think], add_generation_prompt=False)
    add("thinking, then a tool", [HELLO, {**think, "content": "", "tool_calls": [call("add", {"terms": [2, 2]}, NINE)]},
                                  {"role": "tool", "tool_call_id": NINE, "name": "add", "content": "4"}], tools=[ADD])
    add("thinking off", [SYSTEM, HELLO], enable_thinking=False)
    add("thinking on", [SYSTEM, HELLO], enable_thinking=True, thinking=True, reasoning_effort="high")
    add("thinking, system switch", [{"role": "system", "content": "Terse. /no_think"}, {"role": "user", "content": "Hi /think"}])

    add("documents", [HELLO], documents=[{"title": "A", "text": "First."}, {"title": "B", "text": "Second\nline."}])
    add("date given", [HELLO], date_string="26 Jul 2024", builtin_tools=["wolfram_alpha"], tools_in_user_message=False, tools=[ADD])
    add("other tokens", [SYSTEM, HELLO], bos_token="<B>", eos_token="<E>", custom_tools=[ADD], xml_tools=[ADD], python_tools=[ADD])
    return c
