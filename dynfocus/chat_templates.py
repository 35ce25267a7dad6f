"""Chat templates that put a visual placeholder where a video or image stands in the conversation.

`{% generation %}` marks what the assistant says, from which training masks are made.
"""

_CONTENT = (
    "{%- macro content(message) -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] in ('video', 'image') -%}{{ '<' + part['type'] + '>\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)

_TURNS = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ ' USER: ' + content(message) }}"
    "{%- elif message['role'] == 'assistant' -%}{{ ' ASSISTANT:' }}"
    "{% generation %}{{ ' ' + content(message) + eos_token }}{% endgeneration %}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}"
)

PLAIN = _CONTENT + _TURNS

VICUNA = (
    _CONTENT
    + (
        "{%- if messages[0]['role'] == 'system' -%}{{ content(messages[0]) }}"
        "{%- else -%}A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.{%- endif -%}"
    )
    + _TURNS
)

CHATML = _CONTENT + (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ content(message) + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{%- else -%}{{ content(message) + '<|im_end|>\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
