"""`python -m rmexport`."""

import sys

from rmexport.cli import main

sys.exit(main())
