"""Where every number came from: all records, and the software and machines behind them."""

from __future__ import annotations

from collections import Counter

from reports.measured import Measured
from reports.tables.table import Cell, Column, Row, Table
from vgt.core.record import Record


def _text(value) -> Cell:
    return Cell(None if value is None or value == "" else str(value))


def _coverage(r: Record) -> str:
    return (
        f"{r.n}/{r.n_expected}"
        + (f", {r.n_failed} failed" if r.n_failed else "")
        + (" \N{DAGGER}" if r.partial else "")
    )


def _commit(r: Record) -> str | None:
    return None if r.commit is None else r.commit[:8] + ("+dirty" if r.dirty else "")


def _settings(r: Record) -> str:
    """The protocol's plain settings, e.g. "images_per_prompt=4"."""
    plain = {k: v for k, v in r.protocol_params.items() if isinstance(v, (str, int, float, bool))}
    return ", ".join(f"{k}={v}" for k, v in sorted(plain.items()))


def records(measured: Measured) -> Table:
    """One row per record."""
    heads = (
        "Value",
        "95 % interval",
        "n",
        "Protocol",
        "Settings",
        "Judge",
        "Seed",
        "Fingerprint",
        "Commit",
        "Device",
        "Created",
        "Seconds",
    )
    keys = (
        "value",
        "interval",
        "n",
        "protocol",
        "settings",
        "judge",
        "seed",
        "fingerprint",
        "commit",
        "device",
        "created",
        "seconds",
    )
    columns = [Column(k, h, text=True) for k, h in zip(keys, heads, strict=True)]
    rows = []
    for r in measured.records:
        cells = {
            "value": Cell(f"{r.value:.6g}" + (f" {r.unit}" if r.unit else ""))
            if r.value is not None
            else Cell(why=r.note),
            "interval": _text(f"[{r.low:.4g}, {r.high:.4g}]" if r.low is not None and r.high is not None else None),
            "n": _text(_coverage(r)),
            "protocol": _text(r.protocol),
            "settings": _text(_settings(r)),
            "judge": _text(r.judge),
            "seed": _text(r.seed),
            "fingerprint": _text(r.fingerprint[:8]),
            "commit": _text(_commit(r)),
            "device": _text(r.device),
            "created": _text(r.created),
            "seconds": _text(None if r.seconds is None else f"{r.seconds:.2f}"),
        }
        rows.append(Row(r.name, cells))
    return Table(
        "provenance", "Every record", columns, rows, missing="does not apply or was not recorded", row_head="Record"
    )


def environments(measured: Measured) -> Table:
    """The distinct commits, machines and package versions, with the number of records from each."""
    counts = Counter((_commit(r), r.device, tuple(sorted(r.versions.items()))) for r in measured.records)
    packages = sorted({name for _, _, versions in counts for name, _ in versions})
    columns = [Column("records", "Records", digits=0), Column("device", "Device", text=True)]
    columns += [Column(p, p, text=True) for p in packages]
    rows = [
        Row(
            commit or "no commit",
            {"records": Cell(count), "device": _text(device), **{k: Cell(v) for k, v in versions}},
        )
        for (commit, device, versions), count in counts.most_common()
    ]
    return Table("environments", "Software and machines", columns, rows, missing="not recorded", row_head="Commit")
