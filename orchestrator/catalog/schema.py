"""The formats of meta/contract.yml and meta/argument_specs.yml, as pydantic models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.model import Count
from orchestrator.yaml.fields import Model, RolloutModel

__all__ = ["CheckModel", "ContractModel", "EntryPointModel", "OptionModel", "SpecsModel", "WireModel", "json_schema"]

_COUNT = re.compile(r"(\d{1,6})(\.\.(\d{1,6})?)?")

OptionType = Literal["str", "int", "float", "bool", "list", "dict", "path", "raw", "json", "jsonarg", "bytes", "bits"]
Capability = Annotated[str, Field(pattern=r"^[a-z0-9_]+([.-][a-z0-9_]+)*$")]
Name = Annotated[str, Field(min_length=1)]
Text = str | list[str]


def _count(value: Any) -> Count:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Count(least=value, most=value)
    if isinstance(value, str) and (found := _COUNT.fullmatch(value)):
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else None
        if most is None or most >= least:
            return Count(least=least, most=most)
    raise PydanticCustomError("count", 'must be a count: "1", "1..3" or "0.."')


CountField = Annotated[
    Count,
    BeforeValidator(_count),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.\.([0-9]+)?)?$"}],
            "examples": ["1", "1..3", "0.."],
        },
    ),
]


# --- meta/contract.yml --------------------------------------------------------------------------------------------


class RequirementModel(Model):
    """A capability that must be up before this role runs."""

    capability: Capability = Field(description="Name of the capability.", examples=["database.mysql"])
    scope: Literal["node", "group", "site"] = Field(default="site", description="How far away a provider may be.")
    count: CountField = Field(default=Count(), description="How many providers one placement binds.")


class WireModel(Model):
    """Where the value of an option comes from: an output of a provider, or a fact of the site."""

    from_: Capability | None = Field(
        default=None, alias="from", description="Capability whose provider gives the value."
    )
    output: Name | None = Field(default=None, description="Output of the provider.")
    collect: Literal["one", "list"] = Field(default="one", description="The first provider's value, or a list of all.")
    site: Literal["hosts", "providers", "peers"] | None = Field(
        default=None, description="A map from node name to address."
    )


class OutputModel(Model):
    """A value that other roles can wire: a Jinja expression, or the name of a secret option."""

    type: OptionType = Field(default="str", description="Type of the value, as in argument specs.")
    description: str = Field(default="", description="What the value is.")
    value: Any = Field(default=None, description="Jinja expression, evaluated on the host after the role ran.")
    secret: Name | None = Field(default=None, description="Option of this role with no_log: true.")


class CardinalityModel(Model):
    """How many placements of the role may exist."""

    per: Literal["site", "group"] = Field(default="site", description="Where they are counted.")
    count: CountField = Field(default=Count(least=0), description="How many there may be.")
    quorum: bool = Field(default=False, description="Only an odd number may exist.")


class CheckModel(Model):
    """A rule that the values of each placement must keep before anything runs."""

    that: Name = Field(description="Jinja expression that must be true.")
    message: Name = Field(description="What is wrong when it is not; a Jinja template.")
    option: Name | None = Field(default=None, description="Option that the problem points at, where the site set it.")
    hint: str = Field(default="", description="What to do about it.")


class RemoveModel(Model):
    """That the role can be removed by tasks/remove.yml."""

    destroys: str = Field(default="", description="What removal erases; empty: nothing.")


class ContractModel(Model):
    """What a role promises to other roles and needs from them, across hosts."""

    contract: Literal[1] = Field(description="Version of this format.")
    provides: list[Capability] = Field(default_factory=list, description="Capabilities that other roles can require.")
    requires: list[RequirementModel] = Field(
        default_factory=list,
        description="Capabilities that must be up before this role runs.",
    )
    after: list[Capability] = Field(default_factory=list, description="Capabilities that only order.")
    inputs: dict[str, WireModel] = Field(default_factory=dict, description="Options whose value the graph knows.")
    outputs: dict[str, OutputModel] = Field(default_factory=dict, description="Values that consumers can wire.")
    checks: list[CheckModel] = Field(default_factory=list, description="Rules that must hold before anything runs.")
    cardinality: CardinalityModel = Field(
        default_factory=CardinalityModel, description="How many placements may exist."
    )
    platforms: list[Name] = Field(default_factory=list, description="Platforms the role runs on; empty: all.")
    facts: list[Name] = Field(default_factory=list, description="Ansible gather_subset list; empty: no facts.")
    rollout: RolloutModel | None = Field(default=None, description="In which portions the role reaches its hosts.")
    remove: RemoveModel | None = Field(default=None, description="The role has tasks/remove.yml.")
    executor: Literal["carry", "ansible"] | None = Field(
        default=None, description="Who has to apply the role; by default its files tell."
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of meta/contract.yml."""
    schema = ContractModel.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Halligan role contract (meta/contract.yml)",
    }


# --- meta/argument_specs.yml (Ansible's format) -------------------------------------------------------------------


class OptionModel(Model):
    """One option. Relations between options (required_if, …) are left to Ansible, which checks them on the host."""

    type: OptionType = "str"
    required: bool = False
    default: Any = None
    choices: list[Any] | None = None
    elements: OptionType | None = None
    options: dict[str, OptionModel] = Field(default_factory=dict)
    no_log: bool = False
    description: Any = ""
    version_added: Any = None
    example: Any = None
    apply_defaults: Any = None
    mutually_exclusive: Any = None
    required_together: Any = None
    required_one_of: Any = None
    required_if: Any = None
    required_by: Any = None


class EntryPointModel(Model):
    """One entry point of a role: a file under tasks/ and the options it takes."""

    short_description: str = ""
    description: Any = ""
    author: Any = None
    version_added: Any = None
    examples: Any = None
    seealso: Any = None
    attributes: Any = None
    mutually_exclusive: Any = None
    required_together: Any = None
    required_one_of: Any = None
    required_if: Any = None
    required_by: Any = None
    options: dict[str, OptionModel] = Field(default_factory=dict)


class SpecsModel(Model):
    argument_specs: dict[str, EntryPointModel]
