"""The edge that finds the files of sites and roles: as Ansible finds them, and nothing that decides nothing."""

from __future__ import annotations

import os

import pytest
from ansible.parsing.dataloader import DataLoader

from orchestrator import files
from orchestrator.errors import HalliganError


def write(root, *paths, text="x: 1\n"):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"# {path}\n{text}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path, "inventories/lab/cluster.yml", "inventories/big/cluster.yml", "roles/base/meta/contract.yml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- sites --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["lab", "inventories/lab", "inventories/lab/", "inventories/lab/cluster.yml"])
def test_a_site_is_found_by_name_folder_or_file(project, given):
    found = files.read_site(given)
    assert found.site == "lab"
    assert found.folder == str(project / "inventories/lab")
    assert found.cluster.path == "cluster.yml"
    assert found.cluster.shown == "inventories/lab/cluster.yml"


def test_a_site_is_found_by_name_from_below_the_project(project, monkeypatch):
    monkeypatch.chdir(project / "roles" / "base")
    assert files.read_site("lab").folder == str(project / "inventories/lab")


def test_a_site_is_called_like_its_folder_even_from_inside(project, monkeypatch):
    monkeypatch.chdir(project / "inventories" / "lab")
    assert files.find_site(".").name == "lab"
    assert files.read_site("cluster.yml").site == "lab"
    assert files.read_site("../big").site == "big"


def test_a_missing_site_names_its_neighbours(project):
    with pytest.raises(HalliganError) as caught:
        files.read_site("inventories/lob")
    assert 'there is no site inventories/lob. Did you mean "lab"?' in str(caught.value)
    assert caught.value.detail == ("sites here: big, lab",)
    with pytest.raises(HalliganError, match=r'there is no site labb\. Did you mean "lab"'):
        files.read_site("labb")


def test_a_folder_without_cluster_yml_is_no_site(project):
    with pytest.raises(HalliganError, match=r"roles is not a site: it has no cluster\.yml"):
        files.read_site(project / "roles")


def test_a_file_that_cannot_be_read_is_named(project):
    (project / "inventories/lab/group_vars").mkdir()
    (project / "inventories/lab/group_vars/all.yml").symlink_to("nowhere")
    (project / "inventories/lab/group_vars/all").mkdir()
    (project / "inventories/lab/group_vars/all/x.yml").symlink_to("nowhere")
    with pytest.raises(HalliganError, match=r"cannot read .*group_vars/all/x\.yml: No such file"):
        files.read_site("lab")


LAYOUT = (
    "group_vars/all/b.yml",
    "group_vars/all/a.yaml",
    "group_vars/all/c.json",
    "group_vars/all/plain",
    "group_vars/all/deeper/d.yml",
    "group_vars/all/notes.txt",
    "group_vars/all/.hidden.yml",
    "group_vars/all/old.yml~",
    "group_vars/all/skipped.d/e.yml",
    "group_vars/all.yml",
    "group_vars/kvm.yml",
    "group_vars/kvm.json",
    "group_vars/net.yaml",
    "group_vars/hv",
    "group_vars/.git.yml",
    "host_vars/web.example.net.yml",
    "host_vars/web.example.org",
)


def test_vars_files_are_those_that_ansible_reads(project):
    site = project / "inventories/lab"
    write(site, *LAYOUT)
    found = files.read_site("lab")
    assert list(found.group_vars) == ["all", "hv", "kvm", "net"]
    assert list(found.host_vars) == ["web.example.net", "web.example.org"]
    loader = DataLoader()
    for kind, sources in (("group_vars", found.group_vars), ("host_vars", found.host_vars)):
        for name, read in sources.items():
            expected = [os.path.relpath(path, site) for path in loader.find_vars_files(str(site / kind), name)]
            assert [source.path for source in read] == expected
            assert all(source.text == (site / source.path).read_bytes() for source in read)


def test_vars_files_that_are_hidden_by_others_are_a_warning(project):
    write(project / "inventories/lab", *LAYOUT)
    found = files.read_site("lab").problems
    assert [(str(problem.where), problem.hint) for problem in found] == [
        ("inventories/lab/group_vars/all.yml", "move it to inventories/lab/group_vars/all/vars.yml"),
        ("inventories/lab/group_vars/kvm.json", "merge the two files"),
    ]
    assert {problem.severity for problem in found} == {"warning"}


def test_a_file_over_the_limit_is_not_read_to_its_end(project, monkeypatch):
    monkeypatch.setattr(files, "DEFAULT_LIMIT", 10)
    assert len(files.read_site("lab").cluster.text) == 11


# --- roles --------------------------------------------------------------------------------------------------------


def test_roles_of_the_site_come_before_those_of_the_project(project):
    write(project, "inventories/lab/roles/base/meta/contract.yml", "roles/other/meta/contract.yml")
    paths = files.role_paths("lab")
    assert [str(path) for path in paths] == ["inventories/lab/roles", "roles", str(files.HOME / "roles")]
    found = files.read_roles(paths[:2]).roles
    assert [role.shown for role in found] == ["inventories/lab/roles/base", "roles/other"]
    assert found[0].path == str(project / "inventories/lab/roles/base")


def test_explicit_roles_stand_in_for_those_of_the_project(project):
    write(project, "elsewhere/mine/meta/contract.yml")
    own = str(files.HOME / "roles")
    assert [str(path) for path in files.role_paths("lab", ("elsewhere",))] == ["elsewhere", own]
    with pytest.raises(HalliganError, match="there is no roles folder nowhere"):
        files.role_paths("lab", ("nowhere",))


def test_a_site_outside_any_project_has_the_roles_that_come_with_halligan(tmp_path, monkeypatch):
    write(tmp_path, "mine/cluster.yml")
    monkeypatch.chdir(tmp_path)
    assert files.role_paths("mine") == [files.HOME / "roles"]


def test_a_role_is_its_files(project):
    write(
        project,
        *(f"roles/base/{path}" for path in ("meta/argument_specs.yaml", "meta/main.yml", "defaults/main.yml")),
        "roles/base/tasks/remove.yml",
    )
    (role,) = files.read_roles(["roles"]).roles
    assert role.contract.shown == "roles/base/meta/contract.yml"
    assert role.specs.shown == "roles/base/meta/argument_specs.yaml"
    assert role.defaults.text == (project / "roles/base/defaults/main.yml").read_bytes()
    assert (role.vars, role.has_remove) == (None, True)


def digest_of(path):
    (role,) = files.read_roles([path]).roles
    return role.digest


DECIDING = (
    "tasks/main.yml",
    "tasks/debian/main.yml",
    "handlers/main.yml",
    "templates/my.conf.j2",
    "templates/etc/.profile",
    "files/README.md",
    "defaults/main.yml",
    "vars/main.yml",
    "meta/contract.yml",
    "library/mine.py",
    "module_utils/mine.py",
    "filter_plugins/mine.py",
    "scripts/run.sh",
)
ASIDE = (
    "README.md",
    "CHANGELOG.rst",
    "LICENSE",
    ".yamllint",
    ".git/HEAD",
    "molecule/default/molecule.yml",
    "tests/test.yml",
    "docs/more.md",
    "tasks/.main.yml.swp",
    "tasks/main.yml~",
    "tasks/#main.yml#",
    "tasks/main.yml.orig",
    "tasks/.DS_Store",
    "library/__pycache__/mine.pyc",
)


@pytest.mark.parametrize("path", DECIDING)
def test_the_digest_of_a_role_changes_with_what_decides(tmp_path, path):
    write(tmp_path, *(f"roles/base/{name}" for name in DECIDING))
    before = digest_of(tmp_path / "roles")
    write(tmp_path, f"roles/base/{path}", text="x: 2\n")
    changed = digest_of(tmp_path / "roles")
    (tmp_path / f"roles/base/{path}").rename(tmp_path / f"roles/base/{path}.moved")
    assert len({before, changed, digest_of(tmp_path / "roles")}) == 3


@pytest.mark.parametrize("path", ASIDE)
def test_the_digest_of_a_role_does_not_know_what_is_aside(tmp_path, path):
    write(tmp_path, *(f"roles/base/{name}" for name in DECIDING))
    before = digest_of(tmp_path / "roles")
    write(tmp_path, f"roles/base/{path}")
    assert digest_of(tmp_path / "roles") == before


def test_the_digest_of_a_role_does_not_depend_on_where_it_is(tmp_path):
    for place in ("here", "there"):
        write(tmp_path, *(f"{place}/base/{name}" for name in DECIDING), text="x: 1\n")
        for name in DECIDING:
            (tmp_path / place / "base" / name).write_text(name)
    assert digest_of(tmp_path / "here") == digest_of(tmp_path / "there")


def test_whether_a_file_is_executable_counts(tmp_path):
    write(tmp_path, "roles/base/files/run.sh")
    before = digest_of(tmp_path / "roles")
    (tmp_path / "roles/base/files/run.sh").chmod(0o755)
    assert digest_of(tmp_path / "roles") != before


def test_a_dangling_link_counts_by_its_target(tmp_path):
    write(tmp_path, "roles/base/files/run.sh")
    link = tmp_path / "roles/base/files/link"
    link.symlink_to("one")
    before = digest_of(tmp_path / "roles")
    link.unlink()
    link.symlink_to("two")
    assert digest_of(tmp_path / "roles") != before


def test_a_missing_roles_folder_is_named(tmp_path):
    with pytest.raises(HalliganError, match="there is no roles folder"):
        files.read_roles([tmp_path / "nope"])


def test_a_role_comes_with_the_texts_that_say_what_it_does(tmp_path):
    decides = ["tasks/a/b.yml", "handlers/main.yaml", "vars/x.yml", "templates/page", "templates/deep/x.conf.j2"]
    write(tmp_path, *(f"web/{name}" for name in [*decides, "files/x.yml", "molecule/default/x.yml", "tasks/note.md"]))
    (tmp_path / "web/files/key").write_text("$ANSIBLE_VAULT;1.1;AES256\n00\n")
    (found,) = files.read_roles([tmp_path]).roles
    assert sorted(found.texts) == sorted(decides)
    assert found.texts["vars/x.yml"] == b"# web/vars/x.yml\nx: 1\n"
    assert found.encrypted == "files/key"
