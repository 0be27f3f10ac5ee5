"""Optimiser steps on one rank or several."""
