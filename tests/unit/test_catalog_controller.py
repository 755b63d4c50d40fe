"""What in a role's files needs the controller, each with its place; and what does not."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import catalog, files
from orchestrator.catalog import RoleFiles, RoleSource
from orchestrator.catalog.controller import Needs, analysed
from orchestrator.catalog.source import RoleFile


def role(name="web", *, contract=None, meta=None, encrypted="", **texts):
    """A role; `tasks=` is tasks/main.yml, other texts are given by path with `_` for `/`."""
    known = {"contract": contract, "meta": meta}
    return RoleSource(
        name=name,
        path=f"/p/roles/{name}",
        shown=f"roles/{name}",
        digest="d1",
        encrypted=encrypted,
        texts={
            f"{kind}/{'page.j2' if kind == 'templates' else 'main.yml'}": textwrap.dedent(text).encode()
            for kind, text in texts.items()
        },
        **{
            part: RoleFile(shown=f"roles/{name}/meta/{part}.yml", text=text.encode())
            for part, text in known.items()
            if text
        },
    )


def controller(**given):
    return analysed(role(**given)).controller


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("{ping: , delegate_to: db-1}", "delegate_to"),
        ("{local_action: ping}", "local_action"),
        ("{ping: , run_once: true}", "run_once"),
        ("{ping: , throttle: 1}", "throttle"),
        ("{ping: , connection: local}", "connection"),
        ("{debug: {msg: \"{{ lookup('env', 'HOME') }}\"}}", "lookup('env')"),
        ("{debug: {msg: \"{{ query('ansible.builtin.pipe', 'id') }}\"}}", "lookup('pipe')"),
        ("{debug: {msg: \"{{ q('file', '/etc/motd') }}\"}}", "lookup('file')"),
        ("{debug: {msg: \"{{ lookup('file', where) }}\"}}", "lookup('file')"),
        ("{debug: {msg: \"{{ lookup('template', '../../other/x.j2') }}\"}}", "lookup('template')"),
        ("{debug: {msg: \"{{ lookup('first_found', ['/etc/a', 'b']) }}\"}}", "lookup('first_found')"),
        ('{debug: {msg: "{{ lookup(kind, 1) }}"}}', "a lookup of a computed name"),
        ('{debug: {msg: "{{ item }}"}, with_env: [HOME]}', "with_env"),
        ("{debug: {msg: x}, with_fileglob: /etc/*.conf}", "with_fileglob"),
        ("{debug: {msg: \"{{ hostvars['db-1'].ansible_host }}\"}}", "hostvars"),
        ("{debug: {msg: x}, when: \"groups['db'] | length > 1\"}", "groups"),
        ("{assert: {that: [node_name in ansible_play_hosts]}}", "ansible_play_hosts"),
        ("{debug: {msg: '{{ playbook_dir }}/x'}}", "playbook_dir"),
        ("{debug: {msg: \"{{ x | community.general.json_query('a') }}\"}}", "community.general.json_query"),
        ("{debug: {msg: \"{{ lookup('env', }}\"}}", "lookup"),  # what cannot be parsed may be anything
        ("{copy: {src: /etc/motd, dest: /etc/motd}}", "copy of a file that may be outside the role"),
        ("{ansible.builtin.copy: src=/etc/motd dest=/etc/motd}", "copy of a file that may be outside the role"),
        ("{action: copy src=/etc/motd dest=/etc/motd}", "copy of a file that may be outside the role"),
        ("{action: {module: copy, src: /a, dest: /b}}", "copy of a file that may be outside the role"),
        ("{copy: {dest: /b}, args: {src: /a}}", "copy of a file that may be outside the role"),
        ('{template: {src: "{{ web_template }}", dest: /x}}', "template of a file that may be outside the role"),
        ('{template: {src: "{{ item }}", dest: /x}, loop: [a.j2, /b.j2]}', "template of a file"),
        ('{template: {src: "{{ item.src }}", dest: /x}, loop: "{{ web_files }}"}', "template of a file"),
        ("{unarchive: {src: ../x.tar, dest: /x}}", "unarchive of a file that may be outside the role"),
        ("{script: /root/x.sh --now}", "script of a file that may be outside the role"),
        ("{include_vars: /etc/site.yml}", "include_vars of a file that may be outside the role"),
        ("{fetch: {src: /x, dest: /y}}", "fetch"),
        ("{ansible.posix.synchronize: {src: a, dest: b}}", "ansible.posix.synchronize"),
        ("{add_host: name=x}", "add_host"),
        ("{group_by: key=x}", "group_by"),
        ("{pause: {seconds: 1}}", "pause"),
        ("{ansible.builtin.reboot: }", "reboot"),
        ("{wait_for_connection: }", "wait_for_connection"),
        ("{meta: refresh_inventory}", "refresh_inventory"),
        ("{community.mysql.mysql_db: {name: x}}", "community.mysql.mysql_db"),
        ('{include_role: {name: "{{ web_engine }}"}}', "include_role of a computed name"),
    ],
)
@pytest.mark.parametrize("shell", ["- debug:\n- {}", "- name: Some\n- block:\n  - block: []\n    rescue:\n      - {}"])
def test_what_needs_the_controller_is_found_with_its_place(task, what, shell):
    text = shell.replace("{}", task)
    line = text.count("\n") + 1
    assert controller(tasks=text).startswith(what)
    assert controller(tasks=text).endswith(f" in tasks/main.yml:{line}")
    assert controller(handlers=text).endswith(f" in handlers/main.yml:{line}")


@pytest.mark.parametrize(
    "task",
    [
        "{ping: , run_once: false}",
        "{debug: {msg: 'delegate_to lookup( hostvars groups: words, no templates'}}",
        "{debug: {msg: \"{{ lookup('vars', 'x') }} {{ query('ansible.builtin.dict', y) }}\"}}",
        "{debug: {msg: \"{{ lookup('ansible.builtin.template', 'hosts.j2') }}\"}}",
        "{debug: {msg: \"{{ lookup('file', role_path ~ '/files/x') }}\"}}",
        '{debug: {msg: "{{ hostvars[inventory_hostname].x }} {{ item.groups }}"}}',
        '{debug: {msg: "{% set groups = [1] %}{{ groups }}"}}',
        '{debug: {msg: "{{ item }}"}, with_dict: "{{ x }}"}',
        "{debug: {msg: x}, with_fileglob: conf.d/*.conf}",
        '{debug: {msg: x}, with_first_found: [{files: ["{{ ansible_distribution }}.yml", x.yml]}]}',
        '{include_vars: "{{ ansible_distribution }}.yml"}',
        "{include_tasks: install.yml}",
        "{user: {name: x, groups: [a, b]}}",
        "{copy: {src: /etc/motd, dest: /x, remote_src: true}}",
        "{copy: {src: /etc/motd, dest: /x, remote_src: yes}}",
        "{copy: {content: '{{ x }}', dest: /x}}",
        "{copy: src=motd dest=/etc/motd}",
        '{template: {src: "{{ item }}", dest: /x}, loop: [a.j2, b.j2]}',
        '{template: {src: "{{ item.src }}", dest: "{{ item.dest }}"}, loop: [{src: a, dest: /a}]}',
        '{template: {src: "{{ item | basename }}.j2", dest: "{{ item }}"}, loop: "{{ web_files }}"}',
        '{template: {src: "conf/{{ item }}.j2", dest: /x}}',
        "{script: x.sh /etc}",
        "{meta: flush_handlers}",
        "{ansible.builtin.command: ls /}",
        "{mysql_schema: {name: x}}",
    ],
)
def test_what_a_host_can_do_alone_stays_with_it(task):
    assert controller(tasks=f"- {task}") == ""


def test_variables_and_templates_are_looked_at_too():
    assert controller(defaults='a: 1\nb: [\'{{ lookup("env", "X") }}\']') == "lookup('env') in defaults/main.yml:2"
    assert controller(vars="x: {y: '{{ groups.all }}'}") == "groups in vars/main.yml:1"
    assert controller(templates="one\ntwo {{ hostvars[other].x }}") == "hostvars in templates/page.j2:2"
    assert controller(templates="#jinja2: variable_start_string: '[%'\n[% groups.all %]").startswith("groups in")
    assert controller(templates="lookup('env') is only text here, {{ x }}") == ""


def test_what_is_encrypted_needs_the_controllers_password():
    assert controller(encrypted="files/key.pem") == "files/key.pem is encrypted with Ansible Vault"
    text = "a: 1\nkey: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"
    assert controller(vars=text) == "a value encrypted with Ansible Vault in vars/main.yml:2"


def test_a_file_that_is_not_understood_is_left_to_the_controller():
    assert controller(tasks="- debug: {msg: !unsafe '{{'}").startswith("tasks/main.yml:1:16 cannot be read: the tag")


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text):
    found = analysed(role(tasks=text, vars=text, templates=text, meta="dependencies: [a]"))
    assert isinstance(found.controller, str)


# --- roles that include others ------------------------------------------------------------------------------------

CONTRACT = "contract: 1\n"
LOCAL = "- {ping: , delegate_to: db-1}"


def web(*others, contract=CONTRACT, include="{include_role: {name: cache}}"):
    read = catalog.read(RoleFiles(roles=(role(contract=contract, tasks=f"- {include}"), *others)))
    return Needs(read["web"].controller, read["web"].includes)


def test_a_role_includes_what_those_it_includes_include():
    found = web(role("cache", tasks="- {import_role: name=disk}"), role("disk", tasks="- {import_role: {name: cache}}"))
    assert found == Needs("", ("cache", "disk"))
    assert web(role("cache", meta="dependencies: [{role: disk}]"), role("disk")) == Needs("", ("cache", "disk"))
    assert web(role("cache"), role("disk", tasks=LOCAL)) == Needs("", ("cache",))


def test_a_role_needs_what_those_it_includes_need():
    reason = "it includes the role cache: delegate_to in tasks/main.yml:1"
    assert web(role("cache", tasks=LOCAL)) == Needs(reason, ("cache",))
    assert web() == Needs("it includes the role cache, which is not among the site's", ())


def test_an_included_roles_contract_wins_over_its_files():
    assert web(role("cache", contract=CONTRACT + "executor: carry\n", tasks=LOCAL)).controller == ""
    asked = web(role("cache", contract=CONTRACT + "executor: ansible\n"))
    assert asked.controller == "it includes the role cache: what its contract asks for"


def test_a_contract_says_who_applies_its_role():
    read = catalog.read(RoleFiles(roles=(role(contract=CONTRACT + "executor: carry\n", tasks=LOCAL),)))
    assert (read["web"].executor, bool(read["web"].controller)) == ("carry", True)


def test_the_roles_of_halligan_can_be_carried():
    found = catalog.read(files.read_roles([files.HOME / "roles"]))
    assert {name for name, contract in found.items() if contract.controller} == {
        "network_host"
    }  # it may cut itself off


def test_a_change_in_an_included_role_changes_the_digest():
    def digest(disk: RoleSource) -> str:
        roles = RoleFiles(roles=(role(contract=CONTRACT, tasks="- {include_role: {name: disk}}"), disk))
        return catalog.read(roles)["web"].digest

    disk = role("disk")
    assert digest(disk) == digest(disk)
    assert digest(disk) != digest(replace(disk, digest="another"))
    assert catalog.read(RoleFiles(roles=(role(contract=CONTRACT),)))["web"].digest == role(contract=CONTRACT).digest
