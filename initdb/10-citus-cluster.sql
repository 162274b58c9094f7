-- Runs once on each node, coordinator or worker, when its data directory is created. It is safe to run again.
-- The password must appear neither in the output nor in the log: no message contains it, and logging is off while the
-- script uses it.
\set QUIET on
\set ECHO none
\set VERBOSITY terse
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET citus.enable_ddl_propagation = off;

CREATE EXTENSION IF NOT EXISTS citus;

SELECT 'pg_stat_statements' = ANY (regexp_split_to_array(current_setting('shared_preload_libraries'), '\s*,\s*'))
       AS has_statements \gset
\if :has_statements
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
\endif

-- The password with which this node connects to the other nodes. The value is a libpq connection string, in which a
-- backslash escapes a backslash or a single quote.
\getenv superuser_password POSTGRES_PASSWORD
\if :{?superuser_password}
-- If the password file ends in CR LF, the image keeps the CR as part of the password. Every other reader removes it.
SELECT :'superuser_password' LIKE E'%\r' AS has_cr, rtrim(:'superuser_password', E'\r') AS superuser_password \gset
\if :has_cr
SET pg_stat_statements.track = 'none';
ALTER ROLE CURRENT_USER PASSWORD :'superuser_password';
\endif
INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo)
VALUES (0, current_user,
        'password=''' || replace(replace(:'superuser_password', '\', '\\'), '''', '\''') || '''')
ON CONFLICT (rolename, nodeid) DO UPDATE SET authinfo = EXCLUDED.authinfo;
\unset superuser_password
\endif
