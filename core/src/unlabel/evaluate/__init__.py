"""Evaluations of a frozen encoder that several plugins share; one file each."""
