"""`modelworks plan`; its `fit` is in `cli.laws`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from modelworks.cli.laws import allocation_lines, counts, warn_beyond
from modelworks.cli.terminal import Json, note, print_json, print_lines, print_table, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped
from modelworks.core.units import HOUR, amount, byte_count, duration

if TYPE_CHECKING:
    from modelworks.models.base import LanguageModel
    from modelworks.scaling.budget import Judgement
    from modelworks.scaling.fit import Fit

Positive = Annotated[float | None, Parameter(validator=Number(gt=0))]
Share = Annotated[float, Parameter(validator=Number(gt=0, lte=1))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
LawFile = Annotated[Path | None, Parameter(name="--law")]

plan = App(
    name="plan",
    help="What to train: sizes, tokens, FLOPs, memory and time; and laws from runs.",
    help_format="plaintext",
)
plan.command("modelworks.cli.laws:fit", name="fit", help="Fit a law to training runs, with bootstrap intervals.")


@plan.default
def make_plan(
    *,
    hours: Positive = None,
    flops: Positive = None,
    model: str | None = None,
    preset: str | None = None,
    tokens: Positive = None,
    unique: Positive = None,
    law_file: LawFile = None,
    vocabulary: Count = 32_000,
    context: Count = 1024,
    batch: Count = 8,
    optimizer: Literal["adamw", "muon", "adamw8bit", "sgd"] = "adamw",
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    mfu: Share = 0.3,
    peak: Positive = None,
    write: Path | None = None,
    as_json: Json = False,
) -> None:
    """Say what to train under a budget, what a model takes, or how a well-known model was trained.

    One of --hours and --flops gives a budget, and the size and tokens that a law finds best for it. --model counts a
    model, and with --tokens its training. --preset compares a well-known model with the best one of its compute.

    Parameters
    ----------
    hours
        A budget in hours on this machine, whose rate is measured.
    flops
        A budget in FLOPs.
    model
        A model's folder, its config.json, a .gguf file, hf:org/name, pypi:package or starter; or a recipe for
        `modelworks train`, whose context, batch, optimiser, precision and tokens are then taken.
    preset
        gpt-3, gopher, chinchilla, palm, llama-7b and others, or all.
    tokens
        How many tokens a model is trained on.
    unique
        How many tokens there are; beyond them they repeat, and are worth less.
    law_file
        A law that `modelworks plan fit --save` wrote; Chinchilla's, fitted anew to its runs, where not given.
    vocabulary
        Tokens that the model to train knows.
    context
        Tokens of a sequence in training.
    batch
        Sequences that are held in memory at once.
    optimizer
        Whose state is counted.
    dtype
        What matrices are multiplied in; weights are float32.
    mfu
        The part of the machine's peak that training reaches (model FLOPs utilisation): an assumption.
    peak
        FLOPs a second of this machine; measured where not given.
    write
        Write the config.json of the model to train to a file.
    as_json
        Print JSON instead of a table.
    """
    asked = [
        name for name, value in (("hours", hours), ("flops", flops), ("model", model), ("preset", preset)) if value
    ]
    if len(asked) != 1:
        got = f"got --{' and --'.join(asked)}" if asked else "got none"
        raise ConfigError(f"a plan is for one of --hours, --flops, --model and --preset; {got}")
    if write is not None and asked[0] not in ("hours", "flops"):
        raise ConfigError("--write writes the model that a budget leads to; give --hours or --flops")
    if preset is not None:
        _plan_preset(preset, law_file, as_json)
        return
    machine = {"context": context, "batch": batch, "optimizer": optimizer, "dtype": dtype, "mfu": mfu, "peak": peak}
    if model is not None:
        _plan_model(model, tokens, unique, law_file, machine, as_json)
        return
    _plan_budget(hours, flops, unique, law_file, vocabulary, write, machine, as_json)


def _law(path: Path | None) -> tuple[Fit[Any], str]:
    from modelworks.scaling.budget import chinchilla
    from modelworks.scaling.fit import load_fit
    from modelworks.scaling.laws import PowerLaw

    if path is None:
        return chinchilla(), "chinchilla (approach 3, fitted anew to 240 of Hoffmann's runs)"
    fit = load_fit(path)
    if isinstance(fit.law, PowerLaw):
        raise ConfigError(f"{path}: a law of one variable allocates nothing; fit chinchilla, kaplan or isoflop")
    return fit, f"{fit.law.name}, from {path.name} ({fit.rows} rows)"


# --- a budget ---------------------------------------------------------------------------------------------------------


def _plan_budget(
    hours: float | None,
    flops: float | None,
    unique: float | None,
    law_file: Path | None,
    vocabulary: int,
    write: Path | None,
    machine: dict[str, Any],
    as_json: bool,
) -> None:
    from modelworks.scaling.budget import allocate, loss_of_repeated
    from modelworks.scaling.plan import build
    from modelworks.scaling.shapes import shape_for

    fit, law = _law(law_file)
    machine = _with_peak(machine)
    if flops is None:
        assert hours is not None
        flops = hours * HOUR * machine["peak"] * machine["mfu"]
    best = allocate(fit, flops)
    config = shape_for(
        best.N,
        vocabulary=vocabulary,
        context=machine["context"],
        without_embeddings=best.counting == "without embeddings",
    )
    takes = _takes(build(config), best.D, machine)
    value: dict[str, Any] = {"law": law, "best": asdict(best), "config": config, "takes": takes}
    if unique is not None and best.loss is not None:
        value["repeated"] = {
            "unique": unique,
            "epochs": max(best.D / unique, 1.0),
            "loss": loss_of_repeated(fit, best.N, best.D, unique),
        }
    if write is not None:
        write.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(value)
        return
    lines = [("budget", f"{flops:.3g} FLOPs" + (f" ({hours:g} hours)" if hours else "")), ("law", law)]
    lines += allocation_lines(best)
    if "repeated" in value:
        again = value["repeated"]
        lines.append(
            ("with repeats", f"{again['epochs']:.1f} epochs of {amount(again['unique'])} tokens: {again['loss']:.3f}")
        )
    lines.append(("shape", _shape_line(config)))
    lines += _takes_lines(takes, machine)
    print_lines("What to train", lines)
    warn_beyond(best)
    if write is not None:
        note(f"wrote {write}")


# --- a model ----------------------------------------------------------------------------------------------------------


def _plan_model(
    ref: str,
    tokens: float | None,
    unique: float | None,
    law_file: Path | None,
    machine: dict[str, Any],
    as_json: bool,
) -> None:
    from modelworks.scaling.budget import judge, loss_of_repeated
    from modelworks.scaling.plan import size_of

    if ref.endswith(".toml"):
        model, said = _of_recipe(Path(ref))
        machine, tokens = machine | said, tokens or said["tokens"]
    else:
        model = _outline(ref)
    size = size_of(model)
    value: dict[str, Any] = {"model": ref, "parameters": asdict(size)}
    machine = _with_peak(machine | {"context": min(machine["context"], model.context_length)})
    value["takes"] = takes = _takes(model, tokens, machine)
    lines = [
        ("parameters", f"{size.total:,} ({amount(size.total)})"),
        ("without embeddings", f"{size.without_embeddings:,}"),
    ]
    if size.active != size.total:
        lines.append(("active", f"{size.active:,} for each token"))
    lines += _takes_lines(takes, machine)
    if tokens is not None:
        fit, law = _law(law_file)
        judged = judge(fit, size.total if fit.counting == "total" else size.without_embeddings, tokens)
        value |= {"law": law, "judgement": _judgement_json(judged)}
        lines += [("law", law), ("beside the best", _judgement_line(judged))]
        lines.append(("this size wants", f"{amount(judged.tokens_wanted)} tokens"))
        if unique is not None and judged.best.loss is not None:
            value["repeated"] = {"loss": loss_of_repeated(fit, size.total, tokens, unique), "epochs": tokens / unique}
            lines.append(("with repeats", f"{tokens / unique:.1f} epochs: loss {value['repeated']['loss']:.3f}"))
    if as_json:
        print_json(value)
        return
    print_lines(escaped(ref), lines)
    if tokens is not None:
        warn_beyond(judged.best)


def _outline(ref: str) -> LanguageModel:
    """A model without its weights: of a config.json alone, or of whatever `load` reads."""
    from modelworks.core.paths import read_json
    from modelworks.models.base import LanguageModel
    from modelworks.models.folder import CONFIG
    from modelworks.models.load import load
    from modelworks.scaling.plan import build

    path = Path(ref).expanduser()
    if path.is_dir() and (path / CONFIG).exists():
        path = path / CONFIG
    if path.suffix == ".json" and path.is_file():
        return build(read_json(path))
    return load(ref, device="meta", kind=LanguageModel)


def _of_recipe(path: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """The model of a recipe without memory, and what the recipe says of its training."""
    import torch

    from modelworks.train.language import LanguageRecipe
    from modelworks.train.run import read_recipe

    recipe = read_recipe(path)
    if not isinstance(recipe, LanguageRecipe):
        raise ConfigError(f"{path}: plans are for language models, and it is a recipe for {recipe.kind}")
    with torch.device("meta"):
        model = recipe.model.build()
    rows = recipe.data.batch_size * recipe.data.seq_len
    return model, {
        "context": recipe.data.seq_len,
        "batch": recipe.data.batch_size,
        "optimizer": recipe.optim.name,
        "dtype": "bfloat16" if recipe.precision == "bf16" else "float32",
        "tokens": recipe.steps * recipe.accumulate * rows or None,
    }


def _with_peak(machine: dict[str, Any]) -> dict[str, Any]:
    if machine["peak"] is not None:
        return machine | {"measured": False}
    from modelworks.scaling.machine import DTYPES, matmul_peak

    return machine | {"peak": matmul_peak(DTYPES[machine["dtype"]]), "measured": True}


def _takes(model: LanguageModel, tokens: float | None, machine: dict[str, Any]) -> dict[str, Any]:
    """FLOPs, memory, and with `tokens` the time of training; each with what it rests on."""
    from modelworks.scaling.plan import flops_per_token, memory_of

    each = flops_per_token(model, machine["context"])
    memory = memory_of(
        model, machine["batch"], machine["context"], optimizer=machine["optimizer"], dtype=machine["dtype"]
    )
    value: dict[str, Any] = {
        "flops_per_token": each,
        "memory": asdict(memory),
        "peak": machine["peak"],
        "peak_measured": machine["measured"],
        "mfu": machine["mfu"],
        "dtype": machine["dtype"],
        "context": machine["context"],
        "batch": machine["batch"],
    }
    if tokens is not None:
        value |= {"tokens": tokens, "flops": each * tokens}
        value["seconds"] = value["flops"] / (machine["peak"] * machine["mfu"])
    return value


def _takes_lines(takes: dict[str, Any], machine: dict[str, Any]) -> list[tuple[str, str]]:
    memory = takes["memory"]
    states = memory["weights"] + memory["gradients"] + memory["optimizer"]
    lines = [("FLOPs a token", f"{takes['flops_per_token']:.3g}, of which a third forward")]
    if "flops" in takes:
        rate = f"{takes['peak'] / 1e9:,.0f} GFLOP/s in {takes['dtype']}{' (measured)' if machine['measured'] else ''}"
        lines.append(("training", f"{amount(takes['tokens'])} tokens: {takes['flops']:.3g} FLOPs"))
        lines.append(("time", f"{duration(takes['seconds'])} at {takes['mfu']:.0%} (assumed) of {rate}"))
    parts = ", ".join(f"{byte_count(memory[part])} {part}" for part in ("weights", "gradients", "optimizer"))
    lines.append(("memory, states", f"{byte_count(states)}: {parts}"))
    rows = f"{takes['batch']} rows of {takes['context']}"
    if memory["activations"] is not None:
        whole, less = byte_count(memory["activations"]), byte_count(memory["checkpointed"])
        lines.append(("activations", f"{whole} for {rows}; {less} with checkpointing"))
    lines.append(("logits", f"{byte_count(memory['logits'])} where a loss holds them whole"))
    return lines


# --- well-known models ------------------------------------------------------------------------------------------------


def _plan_preset(name: str, law_file: Path | None, as_json: bool) -> None:
    from modelworks.scaling.budget import judge, kaplan
    from modelworks.scaling.presets import PRESETS

    if name != "all" and name.lower() not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)} and all")
    fit, law = _law(law_file)
    chosen = list(PRESETS.values()) if name == "all" else [PRESETS[name.lower()]]
    laws = [(law, fit), ("kaplan (as printed, 2020)", kaplan())]
    values, rows = [], []
    for preset in chosen:
        judged = []
        for title, one in laws:
            N = preset.parameters - (preset.embeddings if one.counting == "without embeddings" else 0)
            judged.append((title, judge(one, N, preset.tokens)))
        values.append(
            asdict(preset)
            | {"flops": 6 * preset.parameters * preset.tokens}
            | {"judgements": [{"law": title} | _judgement_json(each) for title, each in judged]}
        )
        for at, (title, each) in enumerate(judged):
            first = [preset.name, amount(preset.parameters), amount(preset.tokens)] if at == 0 else ["", "", ""]
            best = [amount(each.best.N), amount(each.best.D)]
            rows.append([*first, title.split(" ")[0], *best, _judgement_line(each)])
    if as_json:
        print_json(values if name == "all" else values[0])
        return
    print_table(["model", "parameters", "tokens", "law", "best size", "best tokens", "beside the best"], rows)
    out = stdout()
    for title, one in laws:
        out.print(f"{title.split(' ')[0]}: {title.partition(' ')[2].strip('()')}; N counts parameters {counts(one)}")
    out.print("best: the size and tokens of the lowest loss for the same 6 N D")


def _judgement_json(judged: Judgement) -> dict[str, Any]:
    return asdict(judged) | {"verdict": judged.verdict}


def _judgement_line(judged: Judgement) -> str:
    """ "under-trained by 3.3× (2.2× to 4.5×)"; the reciprocal where it had too many tokens."""
    factor, (low, high) = judged.factor, judged.interval
    if factor < 1:
        factor, low, high = 1 / factor, 1 / high, 1 / low
    known = "" if low == high else f" ({_times(low)} to {_times(high)})"
    if judged.verdict == "about right":
        way = "under" if judged.factor > 1 else "over"
        return f"about right: {way} by {_times(factor)}{known}"
    return f"{judged.verdict} by {_times(factor)}{known}"


def _times(factor: float) -> str:
    return f"{factor:.2g}×" if factor < 99.5 else f"{factor:,.0f}×"


def _shape_line(config: dict[str, Any]) -> str:
    heads, narrow = config["num_attention_heads"], config["num_key_value_heads"]
    grouped = f" ({narrow} for keys and values)" if narrow != heads else ""
    tied = ", head tied" if config["tie_word_embeddings"] else ""
    return (
        f"Llama of {config['num_hidden_layers']} layers, {config['hidden_size']} wide, {heads} heads{grouped}, "
        f"perceptron {config['intermediate_size']}, vocabulary {config['vocab_size']:,}{tied}"
    )
