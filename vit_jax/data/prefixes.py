"""Name the prefixes of datasets that are no folders, although an address may follow."""

WEBDATASET = 'wds:'
HUGGING_FACE = 'hf:'
PREFIXES = (WEBDATASET, HUGGING_FACE)
