if __name__ == "envs":
    raise ImportError("This folder is the package mpdf_rllib.envs: import that.")
