"""slime's remote reward model (`--rm-type remote_rm --rm-url .../slime`, also of its fork miles): a bare number.

The whole body of the answer is the reward. Its client tries ten times, with pauses that grow to half a minute, and then
ends the run.
"""

from typing import Any

from rmruntime.serve.activation import score_value
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import own_error_body
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.service import Service


async def reward(request: HttpRequest, service: Service) -> Answer:
    """POST /slime: {"prompt", "response"}; "label", which is there too, is not read.

    A prompt that is a text is templated already, so the response is put behind it as it is. A prompt that is a list of
    messages goes through the bundle's own template with the response.
    """
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    scoring = await service.score(request, model, [_record(fields)])
    return Answer.of_json(score_value(scoring.scores[0]))


def _record(fields: Fields) -> dict[str, Any]:
    prompt, response = fields.required("prompt", "a templated text, or messages"), fields.text("response")
    if isinstance(prompt, str):
        return {"text": prompt + response}
    if isinstance(prompt, list):
        return {"prompt": prompt, "response": response}
    raise wrong("prompt", prompt, "a templated text, or messages")


PROTOCOL = Protocol(
    name="slime",
    routes=(Route("POST", "/slime", reward),),
    error_body=own_error_body,
)
