"""The bus over Redis: publish and subscribe, nothing that Redis would have to keep."""
