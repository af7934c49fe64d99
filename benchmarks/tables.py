"""README's tables, made from the files in benchmarks/results.

python benchmarks/tables.py     puts them into README.md
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_SECTION = re.compile(r"(?<=^## Speed\n\n).*?(?=^`make bench`)", re.MULTILINE | re.DOTALL)


def readme_speed(results: Path) -> str:
    """Return the text of README's section on speed."""
    return "\n".join(
        _section(json.loads(path.read_text())) for path in sorted(results.glob("embed-*.json"))
    )


def _section(found: dict[str, Any]) -> str:
    device, versions = found["device"], found["versions"]
    intro = (
        f"`{found['model'].split('/')[-1]}`, {found['texts']} fresh passages of "
        f"{found['words_per_text']} words in each of {found['rounds']} rounds, on "
        f"{device['cores']} cores of {device['name']} ({', '.join(device['isa'])}); torch "
        f"{versions['torch']}, sentence-transformers {versions['sentence-transformers']}, "
        f"{found['date']}. Ratios are medians against the first row in the same run."
    )
    table = [
        "| | documents/s, ratio | least cosine to float32 | a query, p50 |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [row["name"], row["ratio"], f"{row['min_cosine']:.4f}", f"{row['query_ms_p50']} ms"]
        table.append(f"| {' | '.join(map(str, cells))} |")
    outro = (
        f"Importing the class takes {found['import_cpu_seconds']['more']} s of CPU more than "
        "numpy, pydantic and LangChain's base class."
    )
    return "\n\n".join([intro, "\n".join(table), outro]) + "\n"


def main() -> None:
    """Write the section into README.md."""
    readme = ROOT / "README.md"
    text = readme_speed(ROOT / "benchmarks" / "results") + "\n"
    readme.write_text(_SECTION.sub(lambda _: text, readme.read_text()))


if __name__ == "__main__":
    main()
