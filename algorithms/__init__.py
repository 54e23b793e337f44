if __name__ == "algorithms":
    raise ImportError("This folder is the package mpdf_rllib.algorithms: import that.")
