"""Ours: an objective whose direction, too, is the VLM's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from transporter_pl.concepts.objectives import Loss, Objective
from transporter_pl.concepts.pairs import SLOT
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.teacher import Teacher, spread
from transporter_pl.errors import TransporterError
from transporter_pl.explain.modulation import Modulation, modulate

SAMPLE = 32  # places at which a pair's words are looked for and weighed
PLAUSIBLE = 0.01  # least probability of a word that may stand in the slot


class VLMGuided(Objective):
    """Pulls q by the VLM's own logits, so that what is drawn is what the VLM means by a word.

    A gradient of the VLM alone finds conditions that the generator can't draw: the VLM is pleased, the object falls
    apart. So the direction is a mixture of directions that the generator knows. W words may stand in the slot as far as
    the VLM is concerned, the pair's own two among them; each has its direction d_w = mean over contexts of ε_w − ε−,
    and its step Δv_w = G(z_t, ε_w, t) − G(z_t, ε−, t). With weights a = softmax(θ) and x̂0 = z_t − t v:

        q = vector + Σ_w a_w d_w − d_+,    v = G(z_t, ε− + φ q, t)
        L = ‖ sg[v− + φ Σ_w a_w Δv_w] − v ‖² / ‖Δv‖²           the velocity objective: a trust region round the mixture,
                                                               ‖Δv‖² the pair's mean over places
            − pull · φ log P(token+ | x̂0 through Φ)            what the VLM sees, down to q and θ
            + preserve · KL(P(· | x̂0 of v−) ‖ P(· | x̂0))       at another word of the caption, drawn anew for each point

    The weights start where the VLM puts them: θ_w is log P(token+), mean over what the generator draws of w. The pull
    by log P(token+) leads away from token− and from every other word; log P(token+) − log P(token−) is content with a
    third one. Φ is given ε−, so that only the picture can answer.

    Args:
        teacher: The frozen models.
        prompt: The question under which the VLM is read.
        pull: Weight of the VLM's gradient.
        preserve: Weight of the preservation of the caption's other words.
        words: Largest number W of words.
        lr: Learning rate of θ.

    Raises:
        TransporterError: If a context has no word beside the slot, of which something could be preserved.
    """

    directions: Tensor
    sizes: Tensor

    def __init__(
        self,
        teacher: Teacher,
        prompt: str | None = None,
        pull: float = 0.1,
        preserve: float = 0.1,
        words: int = 6,
        lr: float = 0.1,
    ) -> None:
        super().__init__(teacher, prompt)
        self.pull, self.preserve, self.lr = pull, preserve, lr
        self.theta = nn.Parameter(torch.zeros(len(teacher.pairs), words, device=teacher.device))
        self.words: list[list[str]] = []
        if preserve and any(setting.context.strip() == SLOT for setting in teacher.settings):
            msg = f"contexts: {SLOT!r} has no word beside the slot to preserve; give captions with other words, or "
            raise TransporterError(msg + "objective_options: {preserve: 0.0}")

    # -- the words ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, places: Sequence[Tensor]) -> None:
        """Find the words of every pair, their directions, and how the VLM weighs them."""
        resumed, found, sizes = bool(self.theta.any()), [], []  # θ is 0 before anything is known
        self.words = []
        for pair, rows in enumerate(places):
            points = self.teacher.points(spread(rows, SAMPLE)).to(self.teacher.device)
            sizes.append(points.change.square().mean())
            self.words.append(_agreed(self._plausible(pair, points)))
            found.append([self._direction(pair, word) for word in self.words[pair]])
            seen = [self._seen(points, word) for word in self.words[pair]]
            if not resumed:
                self.theta[pair] = -torch.inf
                self.theta[pair, : len(seen)] = torch.stack(seen)
        spare = torch.zeros_like(found[0][0])
        padded = [torch.stack([*mine, *[spare] * (self.theta.shape[1] - len(mine))]) for mine in found]
        self.register_buffer("directions", torch.stack(padded), persistent=False)  # (pairs, W, L, D_c)
        self.register_buffer("sizes", torch.stack(sizes), persistent=False)  # ‖Δv‖² of each pair, mean over places

    def _plausible(self, pair: int, points: Points) -> list[str]:
        """The pair's words, and what else the VLM reads in the slot at either end that the generator can tell apart."""
        vlm, (negative, positive) = self.teacher.bridge.vlm, self._words_of(pair)
        ends = points.velocity, points.velocity + points.change
        probs = torch.cat([self._read(points, v, self._prefixes(points)) for v in ends]).exp().mean(0)
        likely = probs.topk(2 * self.theta.shape[1])
        words = [positive, negative]  # what the VLM means by the one may be what the generator draws of the other
        for p, index in zip(likely.values.tolist(), likely.indices.tolist(), strict=True):
            word = vlm.text([index]).strip()
            whole = word.isalpha() and vlm.token_ids(f" {word}") == [index]  # and no piece of a longer one
            new = p >= PLAUSIBLE and whole and word not in words and len(words) < self.theta.shape[1]
            if new and self._is_told_apart(pair, word, words):
                words.append(word)
        return words

    def _is_told_apart(self, pair: int, word: str, words: list[str]) -> bool:
        """Whether the generator's text encoder knows a word from others."""
        mine = self._direction(pair, word)
        return not any(torch.allclose(mine, self._direction(pair, other), atol=1e-4) for other in words)

    def _direction(self, pair: int, word: str) -> Tensor:
        """d_w, (L, D_c)."""
        contexts = (self.teacher.pair_of == pair).nonzero()[:, 0]
        captions = self._captions(contexts, word)
        return (self.teacher.conditions[captions] - self.teacher.condition(contexts, 0)).float().mean(0)

    def _seen(self, points: Points, word: str) -> Tensor:
        """Mean over points of log P(token+) of what the generator draws of a word; at small t it is any word's."""
        log_probs = self._read(points, self._fields(points, word), self._prefixes(points))
        return log_probs.gather(1, self._positive(points)).mean()

    def shift(self) -> Tensor:
        """Σ_w a_w d_w − d_+ of every pair, (pairs, L, D_c)."""
        return torch.einsum("pw,pwld->pld", self.theta.softmax(1), self.directions) - self.directions[:, 0]

    def story(self, pair: int) -> str:
        """The weights, as "0.98 right + 0.02 left"."""
        weights = self.theta[pair].softmax(0).tolist()
        shares = sorted(zip(weights, self.words[pair], strict=False), reverse=True)
        return " + ".join(f"{share:.2f} {word}" for share, word in shares if share >= PLAUSIBLE)

    def recall(self, points: Points) -> None:
        """Ask the teacher what ``forward`` asks it."""
        self._step(points)

    # -- the loss -----------------------------------------------------------------------------------------------------

    def forward(self, points: Points, vector: Tensor, phi: Tensor) -> Loss:
        """The three parts at B points."""
        teacher, scale = self.teacher, phi[:, None, None, None, None]
        condition = teacher.condition(points.context, 0)
        step = scale * self._step(points)
        moved = teacher.bridge.generator.velocity(
            points.latents, modulate(condition, [Modulation(vector, phi)]), points.t
        )
        velocity = (points.velocity + step - moved).square().flatten(1).mean(1)
        trust = velocity / self.sizes[self._pairs(points).to(velocity.device)]
        tokens = self._tokens(points, moved)
        seen = self._log_probs(tokens, self._prefixes(points)).gather(1, self._positive(points))[:, 0]
        kept = self._kept(points, tokens) if self.preserve else torch.zeros_like(seen)
        total = trust - self.pull * phi * seen + self.preserve * kept
        return Loss(total, velocity, step.square().flatten(1).mean(1), {"seen": seen.exp(), "kept": kept})

    def _step(self, points: Points) -> Tensor:
        """Σ_w a_w Δv_w, (B, C, T', H', W'); no gradient, as the target has none."""
        pairs = self._pairs(points)
        weights = self.theta.detach().softmax(1)
        steps = torch.zeros_like(points.velocity)
        for pair in sorted(set(pairs.tolist())):
            mine = pairs == pair
            some = points[mine]
            for share, word in zip(weights[pair], self.words[pair], strict=False):
                steps[mine] += share * (self._fields(some, word) - some.velocity)
        return steps

    def _kept(self, points: Points, tokens: Tensor) -> Tensor:
        """KL(before ‖ after) of the VLM's next word at another place of each caption, (B,)."""
        negative, positive = zip(*(self._other_prefix(index) for index in points.context.tolist()), strict=True)
        with torch.no_grad():
            before = self._read(points, points.velocity, negative)
        after = self._log_probs(tokens, positive)
        return (before.exp() * (before - after)).sum(-1)

    def _other_prefix(self, context: int) -> tuple[str, str]:
        """The beginning of both captions before one of their other words."""
        words = self.teacher.settings[context].context.split()
        others = [place for place, word in enumerate(words) if SLOT not in word]
        place = others[int(torch.randint(len(others), (), generator=self.draws))]
        begun = " ".join(words[:place])
        negative, positive = self._words_of(int(self.teacher.pair_of[context]))
        return begun.replace(SLOT, negative), begun.replace(SLOT, positive)

    # -- asking the models --------------------------------------------------------------------------------------------

    def _fields(self, points: Points, word: str) -> Tensor:
        """G(z_t, ε_w, t), (B, C, T', H', W')."""
        captions = self._captions(points.context.cpu(), word)
        keys = list(zip(points.row.tolist(), captions.tolist(), strict=True))
        return self.teacher.velocity(keys).to(points.latents)

    def _pairs(self, points: Points) -> Tensor:
        """Index of each point's pair, on the CPU, (B,)."""
        return self.teacher.pair_of[points.context.cpu()]

    def _captions(self, contexts: Tensor, word: str) -> Tensor:
        return self.teacher.learn([self.teacher.settings[c].context.replace(SLOT, word) for c in contexts.tolist()])

    def _words_of(self, pair: int) -> tuple[str, str]:
        return self.teacher.pairs[pair].negative, self.teacher.pairs[pair].positive

    def _prefixes(self, points: Points) -> list[str]:
        return [self.teacher.contrasts[context].prefix for context in points.context.tolist()]

    def _positive(self, points: Points) -> Tensor:
        """Id of token+ at every point, (B, 1)."""
        ids = [self.teacher.contrasts[context].positive for context in points.context.tolist()]
        return torch.tensor(ids, device=points.t.device)[:, None]

    def _tokens(self, points: Points, velocity: Tensor) -> Tensor:
        """Tokens of x̂0 = z_t − t v through Φ, (B, N, D)."""
        clean = points.latents - points.t[:, None, None, None, None] * velocity
        return self.teacher.bridge.tokens(clean, self.teacher.condition(points.context, 0))

    def _log_probs(self, tokens: Tensor, prefixes: Sequence[str]) -> Tensor:
        return self.teacher.bridge.vlm.logits(tokens, self.prompt, list(prefixes)).float().log_softmax(-1)

    def _read(self, points: Points, velocity: Tensor, prefixes: Sequence[str]) -> Tensor:
        """Log-probabilities of the next token, (B, V); no more points at once than the teacher asks about."""
        parts = torch.split(torch.arange(len(points)), self.teacher.at_once)
        asked = ((points[rows], velocity[rows], [prefixes[row] for row in rows.tolist()]) for rows in parts)
        return torch.cat([self._log_probs(self._tokens(some, v), begun) for some, v, begun in asked])


def _agreed(words: list[str]) -> list[str]:
    """The first process's words, in all processes: where two words are as likely, devices may rank them differently."""
    box = [words]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
