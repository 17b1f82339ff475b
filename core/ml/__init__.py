"""Tensors: conversion, models, attention. Knows no SQL, queue or settings."""
