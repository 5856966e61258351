"""
What a run shows while it trains: a bar on a terminal, and without one a plain line every N steps: see
`progress_bar.py`.

`train.py` says what happened; here is decided what is shown of it, and in which order of importance: the step and the
time that is left, the losses, the speed, then the rest.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

from tinygpt.runtime.streams import bar, tell


class TrainingProgress:
    """
    The display of one run, to be entered while it trains.

    Parameters
    ----------
    step, steps : int
        Where the run begins, and where it will end.
    told : bool
        Whether lines are told.
    drawn : bool
        Whether there is a bar, or its lines in a log.

    Examples
    --------
    >>> with TrainingProgress(0, 2, told=True, drawn=False) as progress:
    ...     progress.tell("step 0: validation loss 5.0")
    step 0: validation loss 5.0
    """

    def __init__(self, step: int, steps: int, told: bool, drawn: bool) -> None:
        self._told = told
        self._start = step
        self._figures: Mapping[str, float] = {}
        self._bar = bar(total=steps, initial=step, unit="step", desc="training", disable=not drawn, smoothing=0)

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.n > self._start:
            self._bar.write_line()
        self._bar.close()

    def tell(self, text: str) -> None:
        """Print lines above the bar; on a terminal they are broken between words."""
        if self._told:
            tell(text, wrap=True)

    def stepped(self, figures: Mapping[str, float], validation_loss: float) -> None:
        """
        Show that one more step is done.

        Parameters
        ----------
        figures : mapping
            Those of the step, as the log has them.
        validation_loss : float
            The last one; NaN if there is none.
        """
        self._figures = figures
        self._set_fields(validation_loss)
        self._bar.update()

    def validated(self, validation_loss: float) -> None:
        """Show a validation loss beside the figures of the last step, with what is drawn next."""
        if self._figures:
            self._set_fields(validation_loss)

    def _set_fields(self, validation_loss: float) -> None:
        figures = self._figures
        validation = "" if math.isnan(validation_loss) else f"val {validation_loss:.3f}"
        fields = [
            f"loss {figures['loss']:.3f}",
            validation,
            f"{figures['tokens_per_second']:,.0f} tok/s",
            f"lr {figures['lr']:.1e}",
            f"norm {figures['grad_norm']:.2f}",
            f"{figures['ms']:,.0f} ms",
        ]
        self._bar.set_fields([field for field in fields if field])

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Inside, the validation text is scored. Before the first step this is not counted in the time per step."""
        start = time.perf_counter()
        self._bar.set_description("validating")
        try:
            yield
        finally:
            if self._bar.n == self._start:
                self._bar.exclude(time.perf_counter() - start)
            self._bar.set_description("training")
