-- For the bound of a tenant's early cancels (admit).
CREATE INDEX early_cancels_tenant ON early_cancels (tenant, created_at);

-- Keep the latest 10,000: a caller can name any number of threads that do not exist. Rows that
-- another batch drops at the same time are left to it.
CREATE OR REPLACE FUNCTION bound_early_cancels(p_tenant text)
RETURNS void LANGUAGE sql SET enable_seqscan = off AS $$
  DELETE FROM early_cancels WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM early_cancels
     WHERE tenant = p_tenant AND created_at < (
           SELECT created_at FROM early_cancels WHERE tenant = p_tenant
            ORDER BY created_at DESC OFFSET 9999 LIMIT 1)
       FOR UPDATE SKIP LOCKED))
$$;
