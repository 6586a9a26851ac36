"""Writes features.json and chats.json: what transformers itself makes of the templates in features/ and chats/.

    TZ=UTC python3 make.py        (pip install transformers 'jinja2==3.1.6'; made with transformers 5.23.0)

Only strftime_now's clock is replaced, and the copies of a message's reasoning that transformers adds under other names
are left out: a template is given the messages as they came.
"""

import datetime
import pathlib

import transformers.utils.chat_template_utils as hugging_face
from reference import BOS, EOS, NOW_S, render_folder, write


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW_S, tz)


hugging_face.datetime = FixedClock
hugging_face._alias_reasoning_fields = lambda chat: chat


def render(source, variables):
    variables = {"bos_token": BOS, "eos_token": EOS, **variables}
    messages = variables.pop("messages")
    return hugging_face.render_jinja_template([messages], chat_template=source, **variables)[0][0]


here = pathlib.Path(__file__).parent
write(render_folder(here / "features", render, few=True), here / "features.json")
write(render_folder(here / "chats", render), here / "chats.json")
