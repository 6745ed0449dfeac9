"""The entry of `ray job submit ... -- python jobs/train_compgan.py OPTIONS`: `orch train` on the cluster it runs in.

ray job submit --working-dir . -- python jobs/train_compgan.py --data faces --task ER-FE --preset tiny
"""

import sys

from orchestrator.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
