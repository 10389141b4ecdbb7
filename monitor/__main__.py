"""``python -m monitor`` is the ``npumon`` command, also where the package was not installed as a script."""

from monitor.cli import main

if __name__ == "__main__":
    main()
