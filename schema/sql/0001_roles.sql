-- Why: the projector owns the tables and is the only one that writes; whoever reports reads with a role that can do
--      nothing else, and not much of that at once.
-- Locks: none that anybody waits for.
-- Reversible: yes, DROP OWNED BY and DROP ROLE.
-- Backfill: none.
-- As: admin
-- Rebuilt: no

-- Roles belong to the cluster, so another database (or another process this very moment) may have made them.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'autovibe_projector') THEN
        CREATE ROLE autovibe_projector LOGIN CONNECTION LIMIT 10;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    RAISE NOTICE 'role autovibe_projector was made by somebody else just now';
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'autovibe_reader') THEN
        CREATE ROLE autovibe_reader LOGIN CONNECTION LIMIT 50;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    RAISE NOTICE 'role autovibe_reader was made by somebody else just now';
END
$$;

-- Without this everybody may fill the disk with temporary tables. A session may still raise its own timeouts: those
-- are seat belts; what is not granted is the wall.
DO $$
DECLARE
    here text := current_database();
BEGIN
    EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', here);
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO autovibe_projector', here);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO autovibe_projector, autovibe_reader', here);
    EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET statement_timeout = ''15s''', here);
    EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET lock_timeout = ''2s''', here);
    EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET idle_in_transaction_session_timeout = ''15s''', here);
    EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET default_transaction_read_only = on', here);
    EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET jit = off', here);
    BEGIN
        -- Only a superuser may set it, and a role that is none cannot lift it.
        EXECUTE format('ALTER ROLE autovibe_reader IN DATABASE %I SET temp_file_limit = ''256MB''', here);
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE WARNING 'temp_file_limit of autovibe_reader is not set: only a superuser may; sorts of readers can fill the disk';
    END;
END
$$;

DO $$
DECLARE
    unsafe regprocedure;
BEGIN
    FOR unsafe IN
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace
           AND p.proname IN ('lo_create', 'lo_creat', 'lo_from_bytea', 'lo_put', 'lowrite', 'lo_import', 'lo_export')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', unsafe);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'large objects are left to everybody: only a superuser may revoke them';
END
$$;

GRANT USAGE, CREATE ON SCHEMA public TO autovibe_projector;
GRANT USAGE ON SCHEMA public TO autovibe_reader;
CREATE SCHEMA IF NOT EXISTS rebuild;
GRANT USAGE, CREATE ON SCHEMA rebuild TO autovibe_projector;
GRANT SELECT ON schema_migrations TO autovibe_projector, autovibe_reader;
