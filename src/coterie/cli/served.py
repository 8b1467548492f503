"""What `coterie serve` serves: its arguments as models to load, checked before anything listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coterie.cli.options import named_paths
from coterie.config import ConfigError

if TYPE_CHECKING:
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config.expert_place import ExpertPlace
    from coterie.hosting.cards import ModelCard
    from coterie.hosting.host import Host, Offer
    from coterie.hosting.metrics import Metrics
    from coterie.hosting.service import Service
    from coterie.hosting.settings import ServeSettings


@dataclass
class Wanted:
    """One model of the command line."""

    path: str
    name: str
    aliases: list[str] = field(default_factory=list)
    adapters: dict[str, Path] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Loading:
    """How models are loaded: type, what weights are held in (`Precision.parse`), chat template, experts."""

    dtype: str
    template: str | None = None
    quant: str = "stored"
    experts: ExpertPlace | None = None


def wanted_models(
    models: Sequence[str],
    name: str | None,
    aliases: Sequence[str],
    adapters: Sequence[str],
    profiles: Sequence[str],
) -> list[Wanted]:
    """The models of `PATH` or `NAME=PATH` arguments, with what belongs to each.

    With several models, an alias is ALIAS=MODEL, and an adapter or profile MODEL:NAME=PATH.
    Errors: `ConfigError` for a name that is given twice or belongs to no model.
    """
    from coterie.hosting.service import default_name

    found = []
    for given in models:
        left, mark, path = given.partition("=")
        named = bool(mark) and "/" not in left and not Path(given).exists()
        found.append(Wanted(path if named else given, left if named else default_name(given)))
    if len(found) == 1:
        found[0].name = name or found[0].name
    elif name is not None:
        raise ConfigError("serve: --name goes with one model; with several write NAME=PATH for each")
    by_name = {one.name: one for one in found}
    for alias in aliases:
        short, mark, model = alias.partition("=")
        owner = found[0] if len(found) == 1 else _owner(by_name, model if mark else "", f"--alias {alias}")
        owner.aliases.append(alias if len(found) == 1 else short)
    for option, values in (("--adapter", list(map(_named, adapters))), ("--profile", profiles)):
        for key, path in named_paths(list(values), option).items():
            model, mark, short = key.rpartition(":")
            owner = found[0] if len(found) == 1 else _owner(by_name, model, f"{option} {key}")
            if option == "--adapter":
                owner.adapters[short if mark else key] = Path(path)
            else:
                owner.profiles[short if mark else key] = path
    _check_names([name for one in found for name in (one.name, *one.aliases)])
    return found


def host_of(
    wanted: Sequence[Wanted],
    settings: ServeSettings,
    form: Loading,
    memory: int | None,
) -> Host:
    """The host of these models. One model is loaded now; of several the first, and others when asked for.

    Errors: `CoterieError` for a model whose directory cannot be read, or that alone exceeds `memory` (bytes).
    """
    from coterie.hosting.host import Host, HostedModel, check_memory
    from coterie.hosting.metrics import Metrics

    metrics = Metrics()
    offers = [_offer(one, settings, metrics, form) for one in wanted]
    check_memory(offers, memory)
    places = [HostedModel(offer) for offer in offers]
    first = places[0].offer.load()
    for name, path in offers[0].adapters.items():
        first.add_adapter(name, path)
    places[0].service, offers[0].num_bytes = first, first.num_bytes
    check_memory(offers[:1], memory)
    return Host(places, settings, metrics, memory)


def known(one: Wanted) -> tuple[ModelCard, Checkpoint]:
    """What a server will say of a model, and its checkpoint; only the config and the tokenizer are read.

    Errors: `CoterieError` for a directory that cannot be read.
    """
    from coterie.adapters.apply import base_of, is_variant
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.hosting.cards import card_of

    checkpoint = Checkpoint.open(base_of(one.path) if is_variant(one.path) else one.path)
    return card_of(one.name, tuple(one.aliases), checkpoint.config, checkpoint.tokenizer), checkpoint


def _offer(one: Wanted, settings: ServeSettings, metrics: Metrics, form: Loading) -> Offer:
    from coterie.adapters.apply import find_variant
    from coterie.checkpoints.running_dtype import running_dtype
    from coterie.config import Precision
    from coterie.hosting.host import Offer
    from coterie.machine.device import choose_device
    from coterie.machine.system import weight_memory
    from coterie.plan.counts import count_parameters

    card, checkpoint = known(one)
    precision = Precision.parse(form.quant)
    dtype = running_dtype(form.dtype, checkpoint, choose_device(), precision).dtype
    in_codes = checkpoint.quantisation is not None or checkpoint.gguf is not None
    experts = form.experts if card.moe else None
    weights = count_parameters(checkpoint.config).total * dtype.itemsize
    limited = experts is not None and (
        experts.where == "disk" or weights > (experts.memory or weight_memory())
    )
    if limited or precision.named or (precision.stored and in_codes):
        weights = checkpoint.held_bytes(dtype, precision, experts)
    load = partial(_load, one, settings, metrics, form)
    found = {name: find_variant(path) for name, path in one.adapters.items()}
    return Offer(card, weights + settings.prefix_cache_mb * 2**20, load, found)


def _load(one: Wanted, settings: ServeSettings, metrics: Metrics, form: Loading) -> Service:
    from coterie.hosting.service import Service
    from coterie.infer.model import load
    from coterie.protocol.moe import read_profile

    place = form.experts or "memory"
    model = load(one.path, dtype=form.dtype, template=form.template, quant=form.quant, experts=place)
    service = Service(model, one.name, settings, tuple(one.aliases), metrics)
    for name, file in one.profiles.items():
        service.profiles[name] = read_profile(service, file)
    return service


def _named(adapter: str) -> str:
    """`NAME=PATH` of an adapter; a hub id alone is called what it is there, without its owner."""
    from coterie.hub.names import HubName

    named = None if Path(adapter).exists() else HubName.parse(adapter)
    return adapter if named is None else f"{named.repo.partition('/')[2]}={adapter}"


def _owner(by_name: Mapping[str, Wanted], model: str, option: str) -> Wanted:
    if model not in by_name:
        raise ConfigError(
            f"serve: {option}: with several models, name one of {', '.join(by_name)} "
            "(--alias ALIAS=MODEL, --adapter MODEL:NAME=DIR, --profile MODEL:NAME=FILE)"
        )
    return by_name[model]


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or names.count(name) > 1:
            raise ConfigError(f"serve: two models are called '{name}'; write NAME=PATH, or another --alias")
