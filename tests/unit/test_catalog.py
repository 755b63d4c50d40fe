"""The reader of roles: contracts, options, defaults, and how they must fit together."""

from __future__ import annotations

import jsonschema
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import catalog, yaml
from orchestrator.catalog import RoleFiles, RoleSource, check_value
from orchestrator.catalog.source import RoleFile
from orchestrator.errors import Location, ProblemsError
from orchestrator.model import (
    Cardinality,
    Count,
    Option,
    Output,
    OutputRef,
    Requirement,
    Rollout,
    Scope,
    SecretRef,
    Share,
    Wire,
)

NAMES = {
    "contract": "meta/contract.yml",
    "specs": "meta/argument_specs.yml",
    "meta": "meta/main.yml",
    "defaults": "defaults/main.yml",
    "vars": "vars/main.yml",
}


def role(name="web", *, has_remove=False, **texts):
    given_files = {
        part: RoleFile(shown=f"roles/{name}/{NAMES[part]}", text=text.encode()) for part, text in texts.items()
    }
    return RoleSource(
        name=name, path=f"/p/roles/{name}", shown=f"roles/{name}", digest="d1", has_remove=has_remove, **given_files
    )


def specs(options):
    return f"argument_specs:\n  main:\n    short_description: A role\n    options: {options}\n"


def read(*roles):
    return catalog.read(RoleFiles(roles=roles))


def problems_of(*roles):
    with pytest.raises(ProblemsError) as caught:
        read(*roles)
    return caught.value.problems


def problem_of(*roles):
    (problem,) = problems_of(*roles)
    return problem


CONTRACT = """\
contract: 1
provides: [identity.keystone]
requires:
  - {capability: os.base, scope: node}
  - {capability: database.mysql, count: "1..3"}
after: [time.sync]
inputs:
  web_database: {from: database.mysql, output: host, collect: list}
  web_hosts: {site: hosts}
outputs:
  web_url: {type: str, description: Where it answers., value: "http://{{ web_host }}/"}
  web_password: {secret: web_password}
cardinality: {per: group, count: "1..", quorum: true}
platforms: [debian-12, windows]
facts: [network]
rollout: {first: 1, then: 25%, stop_after: 2}
remove: {destroys: Every page.}
"""
SPECS = specs(
    """
      web_database: {type: list, elements: str}
      web_hosts: {type: dict}
      web_host: {type: str, default: "{{ node_address }}", description: Name it answers to.}
      web_password: {type: str, required: true, no_log: true, description: [Two, parts.]}
      web_mode: {type: str, choices: [fast, safe], default: safe}
      web_sites:
        type: list
        elements: dict
        options:
          name: {type: str, required: true}
          port: {type: int, default: 80}"""
)
DEFAULTS = """\
web_host: "{{ node_address }}"
web_mode: safe
web_title: "{{ site_name | upper }} {% set x = 1 %}{{ x }} {{ other | some.filter(third) }} {{ web_mode }} {{ __web }}"
"""


# --- what is read -------------------------------------------------------------------------------------------------


def test_a_role_is_read_into_a_contract():
    found = read(role(contract=CONTRACT, specs=SPECS, defaults=DEFAULTS, vars="__web: 1", has_remove=True))["web"]
    assert found.role == "web"
    assert found.description == "A role"
    assert (found.digest, found.path) == ("d1", "/p/roles/web")
    assert found.provides == ("identity.keystone",)
    assert found.requires == (
        Requirement(capability="os.base", scope=Scope.NODE),
        Requirement(capability="database.mysql", count=Count(least=1, most=3)),
    )
    assert found.after == ("time.sync",)
    assert found.inputs == {
        "web_database": Wire(capability="database.mysql", output="host", collect="list"),
        "web_hosts": Wire(site="hosts"),
    }
    assert found.outputs["web_url"] == Output(
        name="web_url",
        type="str",
        description="Where it answers.",
        value="http://{{ web_host }}/",
        depends=frozenset({"web_host", "node_address"}),
    )
    assert found.outputs["web_password"].secret == "web_password"
    assert found.cardinality == Cardinality(per=Scope.GROUP, count=Count(), quorum=True)
    assert found.platforms == ("debian-12", "windows")
    assert found.facts == ("network",)
    assert found.rollout == Rollout(first=Share(count=1), then=Share(percent=25), stop_after=2)
    assert (found.removable, found.destroys) == (True, "Every page.")
    assert found.where == Location(file="roles/web/meta/contract.yml", line=1, column=1)


def test_options_carry_the_defaults_that_apply():
    options = read(role(contract=CONTRACT, specs=SPECS, defaults=DEFAULTS, has_remove=True))["web"].options
    assert options["web_mode"].default == "safe"
    assert options["web_mode"].choices == ("fast", "safe")
    assert options["web_password"].secret
    assert options["web_password"].description == "Two parts."
    assert options["web_sites"].options["port"] == Option(name="port", type="int", default=80)


def test_references_are_what_defaults_mention_and_the_role_does_not_define():
    found = read(role(contract=CONTRACT, specs=SPECS, defaults=DEFAULTS, vars="__web: 1", has_remove=True))["web"]
    assert found.references == {"node_address", "site_name", "other", "third"}


def test_a_contract_has_sensible_defaults():
    found = read(role(contract="contract: 1"))["web"]
    assert found.cardinality == Cardinality()
    assert found.platforms == ()
    assert found.supports("anything")
    assert found.rollout is None
    assert not found.removable


def test_a_role_with_remove_tasks_is_removable_without_saying_so():
    found = read(role(contract="contract: 1", has_remove=True))["web"]
    assert (found.removable, found.destroys) == (True, "")


def test_a_folder_without_contract_is_no_role_of_ours():
    files = RoleFiles(roles=(role("geerlingguy.docker"), role(contract="contract: 1")))
    assert list(catalog.read(files)) == ["web"]


# --- mistakes -----------------------------------------------------------------------------------------------------


def in_contract(text):
    return role(contract="contract: 1\n" + text, specs=SPECS, defaults=DEFAULTS)


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "summary", "hint"),
    [
        (
            "requirse: []",
            2,
            1,
            "catalog.unknown-key",
            'unknown key "requirse" at the top level. Did you mean "requires"?',
            "provides",
        ),
        (
            "requires: [{capability: a, scop: node}]",
            2,
            28,
            "catalog.unknown-key",
            'in requires[0]. Did you mean "scope"?',
            "",
        ),
        (
            "inputs: {web_hosts: {form: a, site: hosts}}",
            2,
            22,
            "catalog.unknown-key",
            'in inputs.web_hosts. Did you mean "from"?',
            "collect, from, output, site",
        ),
        ("requires: [a]", 2, 12, "catalog.wrong-type", 'requires[0] must be a mapping (key: value), not "a"', ""),
        (
            "requires: [{capability: a, scope: rack}]",
            2,
            28,
            "catalog.bad-value",
            'must be node, group or site, not "rack"',
            "",
        ),
        (
            "requires: [{capability: a, count: 3..1}]",
            2,
            28,
            "catalog.bad-value",
            'must be a count: "1", "1..3" or "0..", not "3..1"',
            "",
        ),
        (
            "cardinality: {count: many}",
            2,
            15,
            "catalog.bad-value",
            'cardinality.count must be a count: "1", "1..3" or "0..", not "many"',
            "",
        ),
        ("rollout: {then: 0%}", 2, 11, "catalog.bad-value", "must be a count such as 3 or a percentage", ""),
        ("provides: [Not/This]", 2, 12, "catalog.bad-value", "provides[0]", ""),
        (
            "inputs: {web_hots: {site: hosts}}",
            2,
            10,
            "catalog.unknown-option",
            'the input "web_hots" is no option of the role. Did you mean "web_hosts"?',
            "argument_specs",
        ),
        ("inputs: {web_hosts: {}}", 2, 10, "catalog.wire", "says neither from nor site", ""),
        ("inputs: {web_hosts: {from: a}}", 2, 10, "catalog.wire", "but not which output", ""),
        ("inputs: {web_hosts: {from: a, site: hosts}}", 2, 10, "catalog.wire", "has both from and site", ""),
        (
            "requires: [{capability: database.mysql}]\ninputs: {web_hosts: {from: database.mysq, output: b}}",
            3,
            22,
            "catalog.wire",
            'comes from database.mysq, which the role does not require. Did you mean "database.mysql"?',
            "requires:",
        ),
        ("outputs: {web_url: {}}", 2, 11, "catalog.output", "has neither value nor secret", "one of the two"),
        (
            "outputs: {web_url: {value: x, secret: web_password}}",
            2,
            11,
            "catalog.output",
            "has both value and secret",
            "one of the two",
        ),
        ("outputs: {web-url: {value: x}}", 2, 11, "catalog.output", '"web-url" is not a variable name', ""),
        (
            "outputs: {p: {secret: web_pasword}}",
            2,
            15,
            "catalog.unknown-option",
            'names the option "web_pasword", which does not exist. Did you mean "web_password"?',
            "",
        ),
        (
            "outputs: {p: {secret: web_host}}",
            2,
            15,
            "catalog.not-secret",
            'names the option "web_host" as a secret, but it is not one',
            "no_log: true",
        ),
        (
            "outputs: {p: {value: '{{ x'}}",
            2,
            15,
            "catalog.template",
            'the template of the output "p" is not valid',
            "",
        ),
        (
            "remove: {destroys: x}",
            2,
            1,
            "catalog.no-remove-tasks",
            "says that it can be removed, but has no tasks/remove.yml",
            "take remove: out",
        ),
    ],
)
def test_a_mistake_in_a_contract_is_explained_where_it_is(text, line, column, code, summary, hint):
    problem = problem_of(in_contract(text))
    assert (problem.where.file, problem.where.line, problem.where.column) == (
        "roles/web/meta/contract.yml",
        line,
        column,
    )
    assert problem.code == code
    assert summary in problem.summary
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("texts", "where", "code", "summary"),
    [
        ({"contract": "{}"}, "meta/contract.yml", "catalog.missing-key", 'the file needs the key "contract"'),
        (
            {"contract": "contract: 2"},
            "meta/contract.yml:1:1",
            "catalog.bad-value",
            "contract must be 1, not 2",
        ),
        ({"contract": ""}, "meta/contract.yml", "catalog.missing-key", 'the file needs the key "contract"'),
        (
            {"contract": "contract: 1\ninputs: {web_a: {site: hosts}}", "specs": "["},
            "meta/argument_specs.yml:2:1",
            "yaml.syntax",
            "expected here",
        ),
        ({"contract": "- a"}, "meta/contract.yml:1:1", "catalog.wrong-type", "must be a mapping"),
        ({"contract": "a: ["}, "meta/contract.yml:2:1", "yaml.syntax", "expected here"),
        ({"meta": "dependencies: [x]"}, "meta/main.yml:1:1", "catalog.dependencies", "which the graph cannot see"),
        (
            {"specs": "argument_specs:\n  mian: {}"},
            "meta/argument_specs.yml:1:1",
            "catalog.no-main",
            'no entry point main. Did you mean "mian"?',
        ),
        (
            {"specs": specs("{web_a: {tpye: str}}")},
            "meta/argument_specs.yml:4:23",
            "catalog.unknown-key",
            'unknown key "tpye" in argument_specs.main.options.web_a. Did you mean "type"?',
        ),
        (
            {"specs": specs("{web_a: {type: string}}")},
            "meta/argument_specs.yml:4:23",
            "catalog.bad-value",
            'bytes or bits, not "string". Did you mean "str"?',
        ),
        (
            {"specs": specs("{web_a: {type: dict, options: {b: {requird: true}}}}")},
            "meta/argument_specs.yml:4:49",
            "catalog.unknown-key",
            'Did you mean "required"?',
        ),
        (
            {"specs": specs("{web_a: {type: str, elements: str}}")},
            "meta/argument_specs.yml:4:15",
            "catalog.elements",
            "has elements but is not a list",
        ),
        (
            {"specs": specs("{web_a: {type: str, options: {b: {}}}}")},
            "meta/argument_specs.yml:4:15",
            "catalog.options",
            "is no mapping and no list of them",
        ),
        (
            {"specs": specs("{web-a: {}}")},
            "meta/argument_specs.yml:4:15",
            "catalog.option-name",
            '"web-a" is not a variable name',
        ),
        (
            {"specs": specs("{web_a: {type: int, default: many}}")},
            "meta/argument_specs.yml:4:34",
            "catalog.bad-default",
            'the default of web_a must be a whole number, not "many"',
        ),
        (
            {"specs": specs("{web_a: {type: int}}"), "defaults": "web_a: many"},
            "defaults/main.yml:1:1",
            "catalog.bad-default",
            'the default of web_a must be a whole number, not "many"',
        ),
        (
            {"specs": specs("{web_a: {default: 1}}"), "defaults": "web_a: 2"},
            "meta/argument_specs.yml:4:23",
            "catalog.default-differs",
            "web_a has another default in defaults/main.yml",
        ),
        (
            {"specs": specs("{web_a: {default: 1}}"), "defaults": "web_b: 2"},
            "meta/argument_specs.yml:4:23",
            "catalog.default-missing",
            "none in defaults/main.yml, where Ansible takes it from",
        ),
        (
            {"specs": specs("{web_a: {required: true}}"), "defaults": "web_a: x"},
            "defaults/main.yml:1:1",
            "catalog.required-default",
            "web_a is required, and a default makes that pointless",
        ),
        (
            {"defaults": "web_a: '{{ x'"},
            "defaults/main.yml:1:1",
            "catalog.template",
            "the template of web_a is not valid",
        ),
    ],
)
def test_a_mistake_in_another_file_is_explained_where_it_is(texts, where, code, summary):
    problem = problem_of(role(**{"contract": "contract: 1", **texts}))
    assert str(problem.where) == f"roles/web/{where}"
    assert problem.code == code
    assert summary in problem.summary


def test_a_role_name_must_be_one_for_ansible():
    assert problem_of(role("web-server", contract="contract: 1")).code == "catalog.role-name"


def test_all_problems_of_all_roles_come_out_at_once():
    found = problems_of(
        role("one", contract="contract: 1\nnope: 1", meta="dependencies: [x]"),
        role("two", contract="contract: 1\nafter: x", specs="["),
    )
    assert [problem.where.file for problem in found] == [
        "roles/one/meta/contract.yml",
        "roles/one/meta/main.yml",
        "roles/two/meta/argument_specs.yml",
        "roles/two/meta/contract.yml",
    ]


def provider(outputs):
    return role(
        "db",
        contract=f"contract: 1\nprovides: [database.mysql]\noutputs: {outputs}",
        specs=specs("{db_password: {no_log: true}}"),
    )


def consumer(output):
    contract = f"""\
contract: 1
requires: [{{capability: database.mysql}}]
inputs:
  web_database: {{from: database.mysql, output: {output}}}
"""
    return role(contract=contract, specs=specs("{web_database: {}}"))


def test_a_wire_must_name_an_output_that_its_providers_give():
    assert list(read(provider("{host: {value: x}}"), consumer("host"))) == ["db", "web"]
    problem = problem_of(provider("{host: {value: x}}"), consumer("hots"))
    assert str(problem.where) == "roles/web/meta/contract.yml:4:40"
    assert 'wants the output "hots", which db does not give. Did you mean "host"?' in problem.summary


def test_what_takes_a_secret_must_be_a_secret():
    problem = problem_of(provider("{password: {secret: db_password}}"), consumer("password"))
    assert 'the input "web_database" takes a secret of db, but is not one itself' in problem.summary
    assert "no_log: true" in problem.hint


def test_a_capability_that_nothing_provides_is_no_problem_of_the_catalogue():
    assert list(read(consumer("host"))) == ["web"]


def test_the_json_schema_of_contracts_accepts_what_is_read():
    schema = catalog.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.load(CONTRACT, "contract.yml"))
    assert not validator.is_valid({"contract": 1, "requirse": []})


# --- values -------------------------------------------------------------------------------------------------------


def faults(value, **option):
    return [problem.summary for problem in check_value(Option(name="web_x", **option), value)]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("str", ["a", "", 5, 1.5, True], [["a"], {"a": 1}]),
        ("path", ["/etc", 5], [["a"], {}]),
        ("int", [5, "5", "-5", " 5 ", 5.0, "5.0"], ["five", "", 5.5, "5.5", [5], {}, True]),
        ("float", [5, 5.5, "5.5", "1e3"], ["five", "", [5.5], True]),
        ("bool", [True, "yes", "No", "ON", "1", 0, 1.0], ["maybe", 2, "", [True]]),
        ("list", [[1], [], "a,b", 5, 5.5], [{"a": 1}, True]),
        ("dict", [{"a": 1}, {}, "a=1 b=2", '{"a": 1}', "{'a': 1}"], ["a", "{a", "[1]", [1], 5]),
        ("raw", [1, "a", [1], {"a": 1}, True], []),
        ("json", ["x", [1], {"a": 1}], [5, True]),
        ("jsonarg", ["x", [1], {"a": 1}], [5]),
        ("bytes", [512, "512", "512M", "1.5 GB", "10KB"], ["much", "5 parsecs", "", "M", "5Mb", "-5", 1e-9, True, [1]]),
        ("bits", [512, "512", "1Mb", "5Kb"], ["much", "5x", "5MB", [1]]),
    ],
)
def test_values_are_taken_as_leniently_as_by_ansible(kind, good, bad):
    for value in good:
        assert faults(value, type=kind) == [], value
    for value in bad:
        assert len(faults(value, type=kind)) == 1, value


JSON = st.recursive(
    st.booleans() | st.integers(-5, 10**6) | st.floats(-10, 1e6) | st.text("a5.{}=, yesnoMKBb-'\"", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(JSON, st.sampled_from(["str", "int", "float", "bool", "list", "dict", "raw", "json", "bytes", "bits", "path"]))
def test_what_passes_here_passes_in_ansible(value, kind):
    """A plan must not promise what Ansible then refuses; being stricter is allowed."""
    if not faults(value, type=kind):
        result = ArgumentSpecValidator({"web_x": {"type": kind}}).validate({"web_x": value})
        assert not result.error_messages


@pytest.mark.parametrize(
    "value",
    [
        "{{ other }}",
        "{% if x %}1{% endif %}",
        SecretRef(file="f", key="k", fingerprint="p"),
        OutputRef(providers=("db@a",), output="o"),
    ],
)
def test_what_is_not_known_yet_is_not_checked(value):
    assert faults(value, type="int", choices=(1, 2)) == []
    assert faults([value, 5], type="list", elements="int") == []
    assert faults({"a": value}, type="dict", options={"a": Option(name="a", type="int")}) == []


def test_choices():
    assert faults("fast", choices=("fast", "safe")) == []
    assert faults("5", type="int", choices=(5, 6)) == []
    assert faults("fsat", choices=("fast", "safe")) == [
        'web_x must be one of fast, safe, not "fsat". Did you mean "fast"?'
    ]
    assert faults(["fast", "x"], type="list", choices=("fast",)) == ['web_x must be one of fast, not "x".']


def test_elements_and_nested_options():
    nested = {
        "name": Option(name="name", required=True, description="What it is called."),
        "port": Option(name="port", type="int"),
    }
    option = {"type": "list", "elements": "dict", "options": nested}
    assert faults([{"name": "a", "port": "80"}], **option) == []
    assert faults([{"name": "a"}, {"prot": 80, "port": "x"}, 5], **option) == [
        'web_x[1] has no key "prot". Did you mean "port"?',
        'web_x[1].port must be a whole number, not "x"',
        'web_x[1] needs the key "name"',
        "web_x[2] must be a mapping, not 5",
    ]
    assert faults([1, "x"], type="list", elements="int") == ['web_x[1] must be a whole number, not "x"']


def test_empty_means_not_set():
    assert faults(None, type="int") == []
    assert faults(None, type="int", required=True) == ["web_x is required and must not be empty"]


def test_a_secret_is_never_shown():
    assert faults("geheim", type="int", secret=True) == ["web_x must be a whole number"]
    assert faults("geheim", choices=("a", "b"), secret=True) == ["web_x must be one of a, b."]
    assert faults(["geheim"], type="list", elements="int", secret=True) == ["web_x[0] must be a whole number"]


def test_every_problem_has_the_place_it_was_given():
    where = Location(file="cluster.yml", line=3)
    (problem,) = check_value(Option(name="x", type="int"), "y", where)
    assert problem.where == where
