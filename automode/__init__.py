__version__ = "0.0.1"

import logging as _logging

# transformers advises to install torchvision whenever it is imported; automode does the same with and without it
_logging.getLogger('transformers.utils.import_utils').addFilter(lambda record: 'torchvision' not in record.getMessage())
