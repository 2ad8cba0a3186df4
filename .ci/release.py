"""Make a release: `python .ci/release.py 1.2.3`, in a clean clone, on the commit that passed `.ci/run`.

The version is written where it is said, the heading of CHANGELOG.md loses its "(unreleased)", and both are committed
and tagged. Nothing is pushed: `git push --follow-tags` does that, and the tag starts .github/workflows/release.yml.
`--tag v1.2.3` only checks that a tag is the version. The standard library and git are all this needs.
"""
import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = r'\d+\.\d+\.\d+'
# Where the version is said, and how
PLACES = {
    'settings.ini': rf'^version = ({VERSION})$',
    'CITATION.cff': rf'^version: ({VERSION})$',
    'lowlight_nat/__init__.py': rf'^__version__ = "({VERSION})"$',
}


def git(root, *args):
    "What a git command prints; it must succeed."
    done = subprocess.run(['git', *args], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()

def said(root, file):
    "The version that a file says, as a match."
    text = (root/file).read_text(encoding='utf-8')
    found = re.search(PLACES[file], text, re.M)
    if not found: raise SystemExit(f'{file} says no version such as 1.2.3')
    return found

def numbers(version): return [int(o) for o in version.split('.')]

def changes(root, version):
    "The heading of a version in CHANGELOG.md, and the text below it."
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    found = re.search(rf'^(## {re.escape(version)}(?: \(unreleased\))?)$(.*?)(?=^## |\Z)', text,
                      re.M | re.S)
    if not found or '\n- ' not in found[2]:
        raise SystemExit(
            f'CHANGELOG.md has no section "## {version}" with a line "- ...": say there what changed'
        )
    return found

def check(root, version):
    "Everything that must hold before a file is touched."
    if not re.fullmatch(VERSION, version):
        raise SystemExit(f'{version!r} is no version: write it as 1.2.3')
    now = said(root, 'settings.ini')[1]
    if numbers(version) < numbers(now):
        raise SystemExit(f'{version} is older than {now}, which settings.ini says')
    changed = git(root, 'status', '--porcelain')
    if changed:
        raise SystemExit(
            f'The tree has changes that are not committed: commit or stash them.\n{changed}')
    if git(root, 'tag', '--list', f'v{version}'):
        raise SystemExit(f'The tag v{version} is there already')
    for file in PLACES: said(root, file)
    changes(root, version)

def replace(path, found, group, new):
    "Write a file with one group of a match replaced."
    text = path.read_text(encoding='utf-8')
    start, end = found.span(group)
    path.write_text(text[:start] + new + text[end:], encoding='utf-8', newline='\n')

def release(root, version):
    "Write the version, commit it, tag it."
    check(root, version)
    for file in PLACES: replace(root/file, said(root, file), 1, version)
    replace(root/'CHANGELOG.md', changes(root, version), 1, f'## {version}')
    if git(root, 'status', '--porcelain'):
        git(root, 'commit', '--all', '--message', f'Release {version}')
    git(root, 'tag', '--annotate', f'v{version}', '--message', f'Release {version}')
    print(f'v{version} is committed and tagged here; `git push --follow-tags` publishes it')

def check_tag(root, tag):
    "A tag is v and the version that all files say."
    for file in PLACES:
        version = said(root, file)[1]
        if tag != f'v{version}': raise SystemExit(f'The tag is {tag}, and {file} says {version}')

def main(argv=None):
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('version', nargs='?', help='of the release, such as 1.2.3')
    which.add_argument('--tag', help='only check that this tag is the version')
    args = parser.parse_args(argv)
    if args.tag: check_tag(ROOT, args.tag)
    else: release(ROOT, args.version)


if __name__ == '__main__': sys.exit(main())
