-- For the bound of a thread's early cancels (admit).
CREATE INDEX early_cancels_thread ON early_cancels (thread_key, created_at);
