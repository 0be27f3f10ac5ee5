"""Optimiser steps on one rank (process) or on several ranks."""
