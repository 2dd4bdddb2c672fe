//! What commands mean: jobs, run states, the handover journal
