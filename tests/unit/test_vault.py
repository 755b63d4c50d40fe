"""The edge to Ansible Vault, against Ansible's own vault."""

from __future__ import annotations

import re
import stat
import string
from dataclasses import replace

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from orchestrator import files, spec
from orchestrator.errors import HalliganError, ProblemsError, StalePlanError
from orchestrator.model import SecretRef
from orchestrator.vault import PASSWORD_FILE, SECRETS_FILE, Vault

PASSWORD = "correct horse"


def encrypt(text, password=PASSWORD):
    return VaultLib([("default", VaultSecret(password.encode()))]).encrypt(text).decode()


def indented(text, by):
    return "".join(f"{' ' * by}{line}\n" for line in text.strip().splitlines())


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "cluster.yml").write_text("spec: 1\n")
    return folder


@pytest.fixture
def locked(site):
    """A site with a password, a file that is encrypted as a whole, and two values encrypted in place."""
    write_password(site / PASSWORD_FILE)
    (site / "group_vars").mkdir()
    (site / "group_vars/all.yml").write_text(encrypt("db_password: geheim\nports: [1, 2]\n"))
    (site / "cluster.yml").write_text(
        "spec: 1\n"
        "groups:\n  kvm:\n    vars:\n      login:\n        user: me\n        password: !vault |\n"
        + indented(encrypt("hush"), 10)
        + "nodes:\n  n-[1:2]:\n    vars:\n      token: !vault |\n"
        + indented(encrypt("t0ken"), 8)
    )
    return site


def write_password(path, text=PASSWORD, mode=0o600):
    path.write_text(text + "\n")
    path.chmod(mode)


def vault(site, **options):
    return Vault(site, environ=options.pop("environ", {}), **options)


def read(site, **options):
    return spec.read(files.read_site(site), vault(site, **options))


# --- opening ------------------------------------------------------------------------------------------------------


def test_references_resolve_to_the_values_they_stand_for(locked):
    found, opened = read(locked), vault(locked)
    assert opened.resolve(found.groups["all"].file_vars["db_password"]) == "geheim"
    assert opened.resolve(found.groups["all"].file_vars["ports"]) == [1, 2]
    assert opened.resolve(found.groups["kvm"].vars["login"]) == {"user": "me", "password": "hush"}
    assert opened.resolve(found.nodes["n-2"].vars["token"]) == "t0ken"


def test_a_value_that_changed_since_is_refused(locked):
    ref = read(locked).groups["all"].file_vars["db_password"]
    (locked / "group_vars/all.yml").write_text(encrypt("db_password: neu\n"))
    with pytest.raises(StalePlanError, match=r"the secret db_password in .* has changed since the plan was made"):
        vault(locked).resolve(ref)
    (locked / "group_vars/all.yml").write_text(encrypt("other: neu\n"))
    with pytest.raises(StalePlanError, match="is gone"):
        vault(locked).resolve(ref)


def test_a_value_encrypted_anew_is_the_same_value(locked):
    before = read(locked)
    (locked / "group_vars/all.yml").write_text(encrypt("db_password: geheim\nports: [1, 2]\n"))
    after = read(locked)
    assert before.groups["all"].file_vars == after.groups["all"].file_vars
    assert before.digest == after.digest


def test_fingerprints_need_the_password(locked, tmp_path):
    """Equal values have equal fingerprints, under one password only."""
    write_password(tmp_path / "other", "another")
    one, two, other = vault(locked), vault(locked), vault(locked, password_file=str(tmp_path / "other"))
    assert one.fingerprint("x") == two.fingerprint("x") != one.fingerprint("y")
    assert one.fingerprint("x") != other.fingerprint("x")
    assert one.fingerprint({"a": 1, "b": 2}) == one.fingerprint({"b": 2, "a": 1})


# --- the password -------------------------------------------------------------------------------------------------


def problem_of(site, **options):
    with pytest.raises(ProblemsError) as caught:
        read(site, **options)
    (problem,) = caught.value.problems
    return problem


def test_without_a_password_the_files_and_the_next_step_are_named(locked):
    (locked / PASSWORD_FILE).unlink()
    problem = problem_of(locked)
    assert problem.summary == "there is no vault password"
    assert {str(problem.where), *problem.detail} == {
        f"{locked}/group_vars/all.yml",
        f"also needed for {locked}/cluster.yml:5:7",
        f"also needed for {locked}/cluster.yml:{line_of(locked, 'token')}:7",
    }
    assert PASSWORD_FILE in problem.hint
    assert "--vault-password-file" in problem.hint


def line_of(site, word):
    lines = (site / "cluster.yml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if word in line)


def test_a_password_file_that_others_can_read_is_refused(locked):
    (locked / PASSWORD_FILE).chmod(0o640)
    problem = problem_of(locked)
    assert "others can read the vault password" in problem.summary
    assert problem.hint == f"chmod 600 {locked / PASSWORD_FILE}"


def test_a_wrong_password_is_said_to_be_wrong(locked):
    write_password(locked / PASSWORD_FILE, "wrong")
    assert "does not open this" in problem_of(locked).summary


def test_a_damaged_value_is_no_traceback(locked):
    (locked / "group_vars/all.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n3131\n")
    assert "or it is damaged" in problem_of(locked).summary


def test_an_empty_or_missing_password_file_is_named(locked, tmp_path):
    write_password(tmp_path / "empty", "")
    assert problem_of(locked, password_file=str(tmp_path / "empty")).summary.endswith("empty is empty")
    assert "No such file" in problem_of(locked, password_file=str(tmp_path / "nope")).summary


def test_the_password_comes_from_the_nearest_source(locked, tmp_path):
    for name in ("explicit", "halligan", "ansible"):
        write_password(tmp_path / name, name)
    environ = {
        "HALLIGAN_VAULT_PASSWORD_FILE": str(tmp_path / "halligan"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "ansible"),
    }

    def opens(password, **options):
        return vault(locked, **options).decrypt(encrypt("x", password)) == "x"

    assert opens("explicit", password_file=str(tmp_path / "explicit"), environ=environ)
    assert opens("halligan", environ=environ)
    del environ["HALLIGAN_VAULT_PASSWORD_FILE"]
    assert opens("ansible", environ=environ)
    assert opens(PASSWORD)


def test_an_executable_password_file_is_run(locked, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho '{PASSWORD}'\n")
    script.chmod(0o700)
    assert read(locked, password_file=str(script)).groups["all"].file_vars
    script.write_text("#!/bin/sh\nexit 3\n")
    assert "failed with exit code 3" in problem_of(locked, password_file=str(script)).summary


# --- generating ---------------------------------------------------------------------------------------------------


def test_init_makes_a_password_and_an_encrypted_file(site):
    assert vault(site).init(["b_secret", "a_secret"]) == ["a_secret", "b_secret"]
    password, secrets = site / PASSWORD_FILE, site / SECRETS_FILE
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert secrets.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    values = vault(site).view()
    assert sorted(values) == ["a_secret", "b_secret"]
    assert len(set(values.values())) == 2
    assert all(
        len(value) >= 32 and set(value) <= set(string.ascii_letters + string.digits) for value in values.values()
    )
    assert isinstance(read(site).groups["all"].file_vars["a_secret"], SecretRef)


def test_init_never_changes_what_is_there(site):
    vault(site).init(["a_secret"])
    before, password = vault(site).view()["a_secret"], (site / PASSWORD_FILE).read_text()
    assert vault(site).init(["a_secret", "b_secret"]) == ["b_secret"]
    assert vault(site).view()["a_secret"] == before
    assert (site / PASSWORD_FILE).read_text() == password
    content = (site / SECRETS_FILE).read_bytes()
    assert vault(site).init(["b_secret"]) == []
    assert (site / SECRETS_FILE).read_bytes() == content


def test_init_keeps_what_people_wrote(site):
    write_password(site / PASSWORD_FILE)
    (site / "group_vars/all").mkdir(parents=True)
    (site / SECRETS_FILE).write_text(encrypt("# by hand\nold: {a: 1}"))
    vault(site).init(["new"])
    text = vault(site).decrypt((site / SECRETS_FILE).read_text())
    assert re.fullmatch(r'# by hand\nold: \{a: 1\}\nnew: "\w+"\n', text)


def test_init_leaves_nothing_half_written(site, monkeypatch):
    vault(site).init(["a_secret"])
    before = (site / SECRETS_FILE).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.vault.os.fsync", full)
    with pytest.raises(HalliganError, match=r"cannot write .*secrets\.yml: No space left on device"):
        vault(site).init(["b_secret"])
    assert (site / SECRETS_FILE).read_bytes() == before
    assert [path.name for path in (site / SECRETS_FILE).parent.iterdir()] == ["secrets.yml"]


def test_init_refuses_to_hide_a_vars_file(site):
    (site / "group_vars").mkdir()
    (site / "group_vars/all.yml").write_text("a: 1\n")
    with pytest.raises(HalliganError, match=r"would hide .*all\.yml"):
        vault(site).init(["a_secret"])
    assert not (site / PASSWORD_FILE).exists()


def test_init_refuses_a_secrets_file_in_the_clear(site):
    (site / "group_vars/all").mkdir(parents=True)
    (site / SECRETS_FILE).write_text("a: 1\n")
    with pytest.raises(HalliganError, match="is not encrypted") as caught:
        vault(site).init(["b"])
    assert "ansible-vault encrypt" in caught.value.hint


def test_init_does_not_make_a_second_password(locked):
    """A site whose secrets cannot be opened gets no new password: the old one is only missing."""
    vault(locked)
    (locked / "group_vars/all.yml").unlink()
    vault(locked).init(["a_secret"])
    (locked / PASSWORD_FILE).unlink()
    with pytest.raises(HalliganError, match="there is no vault password"):
        vault(locked).init(["b_secret"])
    assert not (locked / PASSWORD_FILE).exists()


def test_rotate_gives_new_values_to_the_named_only(site):
    vault(site).init(["a_secret", "b_secret"])
    before = vault(site).view()
    ref = read(site).groups["all"].file_vars["a_secret"]
    opened = vault(site)
    assert opened.resolve(ref) == before["a_secret"]
    assert opened.rotate(["a_secret"]) == ["a_secret"]
    after = vault(site).view()
    assert after["a_secret"] != before["a_secret"]
    assert after["b_secret"] == before["b_secret"]
    with pytest.raises(StalePlanError):
        opened.resolve(ref)


def test_rotate_refuses_what_it_does_not_know(site):
    vault(site).init(["a_secret"])
    with pytest.raises(HalliganError, match=r'there is no secret "a_secert" in .* Did you mean "a_secret"'):
        vault(site).rotate(["a_secert"])


def test_rotate_refuses_a_layout_that_it_would_break(site):
    write_password(site / PASSWORD_FILE)
    (site / "group_vars/all").mkdir(parents=True)
    (site / SECRETS_FILE).write_text(encrypt("a: |\n  two\n  lines\n"))
    with pytest.raises(HalliganError, match="one `name: value` a line"):
        vault(site).rotate(["a"])
    assert vault(site).view() == {"a": "two\nlines\n"}


def test_a_reference_to_another_place_is_not_resolved(locked):
    ref = read(locked).groups["kvm"].vars["login"]
    with pytest.raises(StalePlanError, match="is gone"):
        vault(locked).resolve(replace(ref, key="groups/kvm/vars/nope"))
    with pytest.raises(StalePlanError, match="has changed"):
        vault(locked).resolve(replace(ref, fingerprint="0" * 32))
