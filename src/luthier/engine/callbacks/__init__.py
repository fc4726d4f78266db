# SPDX-License-Identifier: Apache-2.0
"""What watches a run. One file each; `report_to` names them."""

from luthier.engine._callback import Callback

__all__ = ["Callback"]
