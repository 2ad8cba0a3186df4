"Build the package from settings.ini, the one place where its name, version, needs and commands are said."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

root = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

licenses = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}
statuses = ['0 - None', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta',
            '5 - Production/Stable', '6 - Mature', '7 - Inactive']
pythons = [f'3.{minor}' for minor in range(int(cfg['min_python'].split('.')[1]), 14)]

def words(key):
    "The whitespace-separated entries of `key`; an entry holds no blank."
    return cfg.get(key, '').split()

def readme():
    """README.md as PyPI shows it: there, links that are relative to the repository would lead
    nowhere."""
    text = (root/'README.md').read_text(encoding='utf-8') if (root/'README.md').exists() else ''
    files, pictures = (f'{cfg["git_url"]}/{o}/{cfg["branch"]}/' for o in ('blob', 'raw'))
    text = re.sub(r'(!\[[^\]]*\]\(|<img src=")(?![a-z]+:|#)', rf'\g<1>{pictures}', text)
    return re.sub(r'(\]\()(?![a-z]+:|#)', rf'\g<1>{files}', text)

# `dev_requirements` gives the extra `dev`, `xyz_requirements` the extra `xyz`
extras = {k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')}
# `all` is what the package itself can use; `dev` and `notebooks` pin what works on it
extras['all'] = sorted({o for k in extras.keys() - {'dev', 'notebooks'} for o in extras[k]})

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme(),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    url=cfg['git_url'],
    license=licenses[cfg['license']],
    keywords=cfg['keywords'].split(),
    classifiers=[f'Development Status :: {statuses[int(cfg["status"])]}',
                 f'Intended Audience :: {cfg["audience"]}',
                 f'Natural Language :: {cfg["language"]}',
                 *[f'Programming Language :: Python :: {v}' for v in pythons]],
    packages=find_namespace_packages(include=[cfg['lib_path'], f'{cfg["lib_path"]}.*'],
                                     exclude=['*.__pycache__', '*.__pycache__.*']),
    package_data={cfg['lib_path']: words('package_data')},
    python_requires=f'>={cfg["min_python"]}',
    install_requires=words('requirements'),
    extras_require=extras,
    entry_points={'console_scripts': words('console_scripts'),
                  'nbdev': [f'{cfg["lib_name"]}={cfg["lib_path"]}._modidx:d']},
    zip_safe=False,
)
