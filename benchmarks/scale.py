"""What 40 thousand, 2 million and 100 million clips take: `python benchmarks/scale.py` fills docs/scale.md's tables.

Bytes follow from shapes; seconds from `benchmarks/results/` (data_path, encode and, of a GPU, the last encode-*.json),
where a figure that was not measured stays out; money from the prices given. Operations are those of the
matrix products.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audio2img_core.targets import PROMPT_TOKENS, get_target  # noqa: E402
from benchmarks.paired import RESULTS, read_result  # noqa: E402

PAGE = ROOT / "docs" / "scale.md"
CLIPS = (40_000, 2_000_000, 100_000_000)
SECONDS = 10.0  # of a clip: AudioSet's and the default window's
SOURCE, PREPARED = 16_000, 18_000  # bytes a second: MP3 of 128 kbit/s; FLAC of 16 kHz, mono, 16 bits, at 56 %
LAYERS, WIDTH, FRAMES = 24, 1024, 500  # of the full encoder; frames of 10 s
QUERIES = 76  # tokens of the default head


@dataclass(frozen=True)
class Prices:
    """In dollars; orders of magnitude of public price lists."""

    core_hour: float = 0.04
    gpu_hour: float = 3.0
    terabyte_month: float = 23.0


@dataclass(frozen=True)
class Rates:
    """Clips of 10 s a second, as measured; None = not measured."""

    decode: float | None  # a core, decoded, cut and log-mel
    encode_core: float | None  # a core
    encode_gpu: float | None  # a GPU, 16 at once
    gpu: str = ""


def measured() -> Rates:
    """The rates of `benchmarks/results/`."""
    data = [row["ours"] for row in read_result("data_path").get("rows", []) if row["window"] == SECONDS]

    def best(result: dict, clips: int) -> float | None:
        rows = [r for r in result.get("rows", []) if (r["clips"], r["seconds"], r["window"]) == (clips, SECONDS, None)]
        rows = [row for row in rows if row["dtype"] == "bfloat16"]
        return clips / min(row["ours"] for row in rows) if rows else None

    cpu = read_result("encode")
    core = best(cpu, 1)
    gpus = sorted(RESULTS.glob("encode-*.json"))
    gpu = read_result(gpus[-1].stem) if gpus else {}
    return Rates(
        decode=min(data) if data else None,
        encode_core=core and core / cpu["machine"]["threads"],
        encode_gpu=best(gpu, 16),
        gpu=gpu["machine"]["gpu"] if gpu else "",
    )


def encoder_operations() -> float:
    """Of one clip through the layers, forward."""
    columns = 2 * 2 * 4 * WIDTH + 4 * WIDTH + 3 * WIDTH  # two feed-forwards, attention, convolutions
    return LAYERS * (2 * FRAMES * WIDTH * columns + 4 * FRAMES**2 * WIDTH)


def amount(value: float, unit: str = "B") -> str:
    """1.2e9 -> 1.2 GB."""
    for name, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {name}{unit}"
    return f"{value:.3g} {unit}"


def hours(seconds: float) -> str:
    """Seconds as the unit that a person would say."""
    for name, size in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"


def dollars(value: float) -> str:
    """To two figures."""
    return f"${float(f'{value:.2g}'):,.0f}" if value >= 1 else "below $1"


def bytes_table(prices: Prices) -> list[str]:
    """What lies on disks."""
    width = get_target("sd15").width
    kinds = {
        "sounds as they come (128 kbit/s)": SOURCE * SECONDS,
        "prepared clips": PREPARED * SECONDS,
        "captions of the teacher, `sd15`, one a clip": PROMPT_TOKENS * (2 * width + 1),
        "embeddings, `sd15`, 76 tokens a window of 10 s": QUERIES * width * 4,
        "embeddings of a first-project checkpoint, 47 tokens a window of 3.75 s": 3 * 47 * 1024 * 4,
        "the same with `--average`": 47 * 1024 * 4,
        "`index.jsonl`": 150,
    }
    lines = ["| bytes | a clip |" + "".join(f" {n:,} |" for n in CLIPS), "|---|---|" + "---|" * len(CLIPS)]
    for name, each in kinds.items():
        lines.append(f"| {name} | {amount(each)} |" + "".join(f" {amount(each * n)} |" for n in CLIPS))
    stored = sum(list(kinds.values())[:4])
    costs = "".join(f" {dollars(stored * n / 1e12 * prices.terabyte_month)} |" for n in CLIPS)
    return [*lines, f"| a month of the first four, at ${prices.terabyte_month:g} a terabyte | |{costs}"]


def time_table(rates: Rates, prices: Prices) -> list[str]:
    """What is waited and paid for."""
    lines = ["| work | a second |" + "".join(f" {n:,} |" for n in CLIPS), "|---|---|" + "---|" * len(CLIPS)]

    def row(name: str, rate: float | None, workers: int, price: float) -> None:
        if rate is None:
            lines.append(f"| {name} | not measured |" + " |" * len(CLIPS))
            return
        cells = (f" {hours(n / rate / workers)}, {dollars(n / rate / 3600 * price)} |" for n in CLIPS)
        lines.append(f"| {name} | {rate:.3g} |" + "".join(cells))

    row("decode, cut, log-mel: 64 cores; a second on each", rates.decode, 64, prices.core_hour)
    row("encode: 64 cores; a second on each", rates.encode_core, 64, prices.core_hour)
    row(f"encode: 8 GPUs ({rates.gpu}); a second on each", rates.encode_gpu, 8, prices.gpu_hour)
    row(
        "an epoch's three passes: 8 GPUs; a second on each",
        rates.encode_gpu and rates.encode_gpu / 3,
        8,
        prices.gpu_hour,
    )
    return lines


def loss_table(batch: int) -> list[str]:
    """How the loss's part of a step grows with ranks, beside the encoder's, in operations of one rank."""
    width, own = get_target("sd15").width, 4 * batch * encoder_operations()
    each = 2 * PROMPT_TOKENS * width
    lines = [
        "| ranks | clips of a step | the batch's captions | bank of 40,000, split | of 2,000,000 | its bytes a rank "
        "| bytes of the batch's scores |",
        "|---|---|---|---|---|---|---|",
    ]
    for ranks in (1, 8, 32, 256):
        clips = batch * ranks
        square = 3 * clips**2 * each / own
        banks = [4 * clips * size * each / own / ranks for size in (40_000, 2_000_000)]
        held = 2_000_000 * PROMPT_TOKENS * width * 2 / ranks
        scores = 4 * PROMPT_TOKENS * clips**2
        shares = f"{square:.1%} | {banks[0]:.1%} | {banks[1]:.0%}"
        lines.append(f"| {ranks} | {clips:,} | {shares} | {amount(held)} | {amount(scores)} |")
    return lines


def tables(prices: Prices, batch: int = 64) -> dict[str, str]:
    """All three, by the names of their places in the page."""
    made = {"bytes": bytes_table(prices), "time": time_table(measured(), prices), "loss": loss_table(batch)}
    return {name: "\n".join(lines) for name, lines in made.items()}


def filled(page: str, made: dict[str, str]) -> str:
    """The page with these tables in their places."""
    for name, table in made.items():
        block = f"<!-- {name}: benchmarks/scale.py -->\n{table}\n<!-- end -->"
        page = re.sub(rf"<!-- {name}: .*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core-hour", type=float, default=Prices.core_hour, help="dollars (default: %(default)s)")
    parser.add_argument("--gpu-hour", type=float, default=Prices.gpu_hour, help="dollars (default: %(default)s)")
    parser.add_argument(
        "--terabyte-month", type=float, default=Prices.terabyte_month, help="dollars (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64, help="clips of a rank in a step (default: %(default)s)")
    parser.add_argument("--print", action="store_true", help="print the tables and leave docs/scale.md as it is")
    args = parser.parse_args()
    prices = Prices(args.core_hour, args.gpu_hour, args.terabyte_month)
    made = tables(prices, args.batch)
    print("\n\n".join(made.values()))
    if not args.print:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
