#!/bin/sh
# What %environment says.
