"""python -m mmsbm.studies: see main.py."""

import sys

from mmsbm.studies.main import main

if __name__ == '__main__':
  sys.exit(main(sys.argv))
