"""The command line, with tasks that note every attempt."""

from sercache.cli.main import main
from sercache.extract import cluster_pass, schedule
from sercache.training import members
from support import counting

if __name__ == "__main__":  # whoever only imports this, as the search for doctests does, keeps his tasks
    schedule.TASK_SECONDS = 6.0
    cluster_pass.run_device_pass = counting.run_device_pass
    members.train_folds = counting.train_folds
    main()
