#!/bin/sh
# Comes first. Nothing is set here.
