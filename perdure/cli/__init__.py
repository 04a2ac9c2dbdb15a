"""The command line. ``app.py`` lists the commands; what a command needs is imported when it is called."""


def main() -> None:
    from perdure.cli.app import run

    run()
