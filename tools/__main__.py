"""`python -m tools`."""
import argparse, sys
def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m tools")
    sub = p.add_subparsers(dest="command", required=True)
    g = sub.add_parser("golden"); g.add_argument("--update", action="store_true"); g.add_argument("--installed", action="store_true"); g.add_argument("--item", action="append", default=[])
    s = sub.add_parser("strength"); s.add_argument("--item", action="append", default=[]); s.add_argument("--jobs", type=int)
    a = p.parse_args(argv)
    if a.command == "golden":
        from tools.golden import main as run
        return run(a.update, a.installed, a.item)
    from tools.strength import main as run
    return run(a.item, a.jobs)
if __name__ == "__main__":
    sys.exit(main())
