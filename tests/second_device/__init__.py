"""Tests on a second torch device, without hardware."""
