"""Runs the official OpenAI client, unchanged, against a running server, and checks what it returns.

    python3 -m venv /tmp/openai && /tmp/openai/bin/pip install openai
    build/release/denoised serve --port 8080 &
    /tmp/openai/bin/python tests/bench/openai_client.py http://127.0.0.1:8080 [--record FILE]

With --record the requests as the client sent them are written as JSON lines, for the replay in
tests/http (tests/fixtures/openai_requests.jsonl).
"""

import argparse
import json
import sys

import openai

recorded = []


def record(response) -> None:
    request = response.request
    kept = ("accept", "content-type", "user-agent")
    recorded.append(
        {
            "method": request.method,
            "path": request.url.path,
            "headers": {k: v for k, v in request.headers.items() if k in kept or k.startswith("x-stainless")},
            "body": request.content.decode(),
            "status": response.status_code,
        }
    )


def check(name: str, good: bool) -> None:
    print(f"{'ok' if good else 'FAILED'}  {name}")
    if not good:
        sys.exit(1)


def run(client: openai.OpenAI) -> None:
    models = client.models.list().data
    check("models.list", len(models) == 1)
    model = models[0].id
    check("models.retrieve", client.models.retrieve(model).id == model)

    messages = [{"role": "system", "content": "You like dogs."}, {"role": "user", "content": "Hi, do you like dogs?"}]
    common = {"model": model, "max_tokens": 24, "seed": 5, "temperature": 0.7}
    chat = client.chat.completions.create(messages=messages, **common)
    check("chat", chat.choices[0].finish_reason in ("stop", "length") and chat.usage.total_tokens > 0)

    text, finish, usage = "", None, None
    stream = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **common
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    check("chat stream joins to the unstreamed answer", text == chat.choices[0].message.content)
    check("chat stream ends with its reason", finish == chat.choices[0].finish_reason)
    check("chat stream usage", usage == chat.usage)

    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there!"}]}]
    several = client.chat.completions.create(messages=parts, n=3, logprobs=True, top_logprobs=2, **common)
    check("chat n", [c.index for c in several.choices] == [0, 1, 2])
    check("chat logprobs", all(len(t.top_logprobs) == 2 for c in several.choices for t in c.logprobs.content))

    plain = client.completions.create(prompt="One day, a girl named Lily found a", logprobs=2, echo=True, **common)
    check("completion echo", plain.choices[0].text.startswith("One day, a girl"))
    check("completion logprobs", plain.choices[0].logprobs.token_logprobs[0] is None)
    stopped = client.completions.create(prompt=["The cat", "The dog"], stop=[".", "!"], n=2, **common)
    check("completion batch", len(stopped.choices) == 4 and not any("." in c.text for c in stopped.choices))
    streamed = client.completions.create(prompt="Tim had a red ball. He", stream=True, **common)
    joined = "".join(c.choices[0].text for c in streamed if c.choices)
    once = client.completions.create(prompt="Tim had a red ball. He", **common)
    check("completion stream joins to the unstreamed answer", joined == once.choices[0].text)
    biased = client.completions.create(
        prompt="Tim", logit_bias={"5": -100}, presence_penalty=0.5, frequency_penalty=0.5, user="someone", **common
    )
    check("completion bias and penalties", biased.choices[0].finish_reason in ("stop", "length"))
    drafts = client.completions.create(
        prompt="Tim had a red ball. He", stream=True, extra_body={"diffusing": True, "steps": 6}, **common
    )
    check("diffusing stream", [c for c in drafts if c.choices][-1].denoised["final"])

    for name, wanted, call in (
        ("unknown model", openai.NotFoundError, lambda: client.models.retrieve("nobody")),
        ("bad temperature", openai.BadRequestError,
         lambda: client.chat.completions.create(model=model, messages=messages, temperature=-1)),
        ("tools are not built", openai.BadRequestError,
         lambda: client.chat.completions.create(
             model=model, messages=messages, tools=[{"type": "function", "function": {"name": "f"}}])),
    ):
        try:
            call()
            check(name, False)
        except wanted as error:
            check(f"{name}: {error.status_code}", error.body is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("server")
    parser.add_argument("--record", metavar="FILE")
    arguments = parser.parse_args()
    http = openai.DefaultHttpxClient(event_hooks={"response": [record]})
    run(openai.OpenAI(base_url=arguments.server + "/v1", api_key="none", max_retries=0, http_client=http))
    if arguments.record:
        with open(arguments.record, "w", encoding="utf-8") as out:
            for request in recorded:
                out.write(json.dumps(request) + "\n")


if __name__ == "__main__":
    main()
