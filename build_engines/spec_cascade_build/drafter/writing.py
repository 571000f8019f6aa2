"""The first half of a making: the target, and the texts that it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines.manifest import CompiledEntry, Manifest
from spec_cascade.engines.pytorch.compiled import CompiledForward, compile_model
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.engines.pytorch.open import runnable_target
from spec_cascade.errors import ConfigError
from spec_cascade_build.build import build_pair
from spec_cascade_build.digest import digest
from spec_cascade_build.drafter.conversation import Conversation, read_prompts
from spec_cascade_build.drafter.headless import without_head
from spec_cascade_build.drafter.text import TextWriter, load_answers, save_answers
from spec_cascade_build.drafter.work import WorkDirectory
from spec_cascade_build.pair import PairDefaults, load_pair
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import CountBar, step
from spec_cascade_build.sources import fingerprint

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.text import Answer
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.recipe import MakeRecipe, TextRecipe


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a recipe.

    Attributes:
        field: Where it stands in the pair file.
        recipe: What the pair file says.
        prompts: From its file; None where the target writes them.
    """

    field: str
    recipe: TextRecipe
    prompts: list[str] | None

    @property
    def key(self) -> str:
        """Of what determines each answer: a text with more of them goes on with those that are there."""
        recipe = self.recipe.model_dump(exclude={"answers", "prompts"})
        return digest({"recipe": recipe, "prompts": self.prompts})

    @property
    def shards(self) -> list[range]:
        """The numbers of the answers in each file."""
        size, count = self.recipe.shard, self.recipe.answers
        return [range(first, min(first + size, count)) for first in range(0, count, size)]


class Making:
    """One making: a pair file's recipe, its target, and what was done so far.

    Args:
        pair_path: A pair file whose drafter is made.
        work: Where to keep what was done; None means ``engines/<name of the pair>.making``.
        console: Shows progress.
        device: Where to compute.

    Raises:
        PairError: The pair's drafter is not one that is made.
        ConfigError: A text stands there twice.
        BuildError: The target cannot be built, or the work directory belongs to another making.
    """

    def __init__(self, pair_path: Path, work: Path | None, console: Console, device: torch.device) -> None:
        pair = load_pair(pair_path)
        if pair.drafter is None or pair.drafter.make is None:
            given = None if pair.drafter is None else pair.drafter.model_dump(exclude_unset=True)
            raise PairError(pair_path, "drafter", given, "{make: ...}: only such a drafter is made")
        self.pair: Pair = pair
        self.recipe: MakeRecipe = pair.drafter.make
        self.base = pair_path.parent
        self.directory = self.recipe.place(self.base)
        self._console = console
        self._device = device
        self._texts = [
            _Text(f"drafter.make.text[{number}]", text, self._read(text.prompts))
            for number, text in enumerate(self.recipe.text)
        ]
        _check_distinct(self._texts)
        self.fingerprint = fingerprint(pair.target, self.base, console)
        inputs = {"target": self.fingerprint, "dtype": pair.dtype, "seed": self.recipe.seed}
        self.key = {**inputs, "texts": [text.key for text in self._texts]}
        self.work = WorkDirectory(work or Path("engines") / f"{pair.name}.making", inputs)
        defaults = PairDefaults(max_seq_len=pair.defaults.max_seq_len)
        without = {"drafter": None, "compile": False, "int8_drafter": False, "defaults": defaults}
        bare = pair.model_copy(update=without)
        build_pair(bare, pair_path, self.work.target, console)
        self.manifest = Manifest.read(self.work.target)

    def _read(self, prompts: str | None) -> list[str] | None:
        return None if prompts is None else read_prompts(self.base / Path(prompts).expanduser())

    def target(self) -> PreTrainedModel:
        """The target, on the device.

        Raises:
            EngineError: The engine cannot run it exactly.
        """
        return runnable_target(self.work.target, self.manifest, self._device)

    def write_texts(self, target: PreTrainedModel) -> list[list[Answer]]:
        """The answers of each text; what an earlier call wrote is read."""
        total = sum(text.recipe.answers for text in self._texts)
        with without_head(target) as head, CountBar(self._console, "the target writes", total) as bar:
            return [self._write(text, target, head, bar) for text in self._texts]

    def _write(self, text: _Text, headless: PreTrainedModel, head: torch.nn.Module, bar: CountBar) -> list[Answer]:
        answers: list[Answer] = []
        writer: TextWriter | None = None
        for number, numbers in enumerate(text.shards):
            path = self.work.shard(text.key, number)
            written = load_answers(path) if path.is_file() else []
            if len(written) < len(numbers):
                writer = writer or self._writer(text, headless, head)
                written = writer.write(numbers, bar.gain)
                save_answers(path, written)
            else:
                bar.gain(len(numbers))
            answers.extend(written[: len(numbers)])
        return answers

    def _writer(self, text: _Text, headless: PreTrainedModel, head: torch.nn.Module) -> TextWriter:
        recipe = text.recipe
        conversation = Conversation.of(Tokenizer.load(self.work.target / "tokenizer"), text.prompts)
        asking = len(conversation.closing) + recipe.max_prompt_tokens if conversation.closing else 0
        limit = getattr(headless.config, "max_position_embeddings", None)
        prompt = conversation.longest_opening + asking
        if limit is not None and prompt >= limit:
            allowed = f"prompts of less than the target's {limit} positions; the longest takes {prompt}"
            raise ConfigError(f"{text.field}.prompts", recipe.prompts, allowed)
        if limit is not None and prompt + recipe.max_answer_tokens > limit:
            allowed = f"at most {limit - prompt}: the target has {limit} positions, with the prompt"
            raise ConfigError(f"{text.field}.max_answer_tokens", recipe.max_answer_tokens, allowed)
        model = CachedModel(
            headless,
            slots=recipe.batch_size,
            max_seq_len=prompt + recipe.max_answer_tokens,
            compiled=self._compiled(headless) if recipe.compile and self._device.type == "cpu" else None,
        )
        return TextWriter(
            model,
            head,
            conversation,
            eos=self.manifest.vocabulary.eos_token_ids,
            vocab_size=self.manifest.vocabulary.vocab_size,
            recipe=recipe,
            seed=self.recipe.seed,
        )

    def _compiled(self, headless: PreTrainedModel) -> CompiledForward:
        package = self.work.package(CompiledEntry.here())
        if not package.is_file():
            partial = self.work.path / "partial.pt2"
            with step(self._console, "compiling the target"):
                compile_model(headless, partial)
            partial.rename(package)
        return CompiledForward.load(package)


def _check_distinct(texts: list[_Text]) -> None:
    """Refuse a text that stands there twice: what is held out of one would be learnt from the other."""
    keys = [text.key for text in texts]
    for number, text in enumerate(texts):
        first = keys.index(text.key)
        if first < number:
            allowed = f"another text than text[{first}]; more answers there make it longer"
            raise ConfigError(text.field, text.recipe.model_dump(exclude_unset=True), allowed)
