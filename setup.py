"""Package metadata, read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], inline_comment_prefixes=["#"])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def lines(key: str) -> list[str]:
    """Return the non-empty lines of a setting."""
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license=settings["license"],
    keywords=settings["keywords"].split(),
    python_requires=f">={settings['min_python']}",
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements")},
    entry_points={"console_scripts": lines("console_scripts")},
    # An installed lessonlib finds the catalogue and the notebooks inside the package.
    packages=[*find_packages(include=["lessonlib*"]), "lessonlib._data", "lessonlib._notebooks"],
    package_dir={"lessonlib._data": "data", "lessonlib._notebooks": "nbs"},
    package_data={
        "lessonlib": ["py.typed"],
        "lessonlib._data": ["catalogue.toml", "results.toml"],
        "lessonlib._notebooks": ["*.ipynb"],
    },
)
