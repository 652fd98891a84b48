from ml_collections.config_dict import ConfigDict as ConfigDict
