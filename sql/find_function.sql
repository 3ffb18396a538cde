-- Tell whether a function is there: where it is, nobody needs the right to create it.
--
-- One row:  whether it is.
SELECT to_regproc(%(name)s) IS NOT NULL AS found;
