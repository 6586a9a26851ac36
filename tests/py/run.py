#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every tests/py/test_*.py; ends in "N passed, N failed, N skipped"."""

import os
import sys
import unittest

sys.dont_write_bytecode = True
suite = unittest.defaultTestLoader.discover(os.path.dirname(os.path.abspath(__file__)))
outcome = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
failed = len({id(test) for test, _ in outcome.failures + outcome.errors})
skipped = len(outcome.skipped)
print(f"{outcome.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
sys.exit(failed != 0 or outcome.testsRun == 0)
