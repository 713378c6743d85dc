"""The solver's tests. Fourteen of them are its acceptance bars:

1.  iterates of SciPy's Broyden: test_solve, test_broyden_iterates_are_scipys
2.  Newton's root, exact in the dimension: test_solve, test_broyden_finds_newtons_root and
    test_anderson_solves_a_linear_problem_in_its_dimension; test_gradient, test_gmres_is_exact_in_the_dimension
3.  gradcheck: test_gradient, test_gradcheck_including_a_zero_cotangent
4.  500 unrolled steps: test_gradient, test_gradient_is_that_of_500_unrolled_steps
5.  dL/db = u - g: test_gradient, test_reported_residual_is_the_true_one_and_the_input_gradient_is_free
6.  memory: test_memory (all of it); test_gradient, test_the_value_is_freed_without_the_collector
7.  faults: test_solve, test_a_fault_costs_only_its_sample
8.  best state: test_solve, test_never_worse_than_any_state_seen
9.  batch mates: test_solve, test_batch_mates_do_not_matter
10. scale: test_gradient, test_the_scale_of_the_gradient_does_not_matter
11. once per solve: test_gradient, test_f_is_evaluated_once_under_autograd_and_never_in_the_backward and
    test_autocast_reaches_every_evaluation_and_every_weight; ../necks/test_neck_equilibrium (weight norm, masks)
12. two processes: test_ddp
13. expansion and 250 steps: test_gradient, test_an_expanding_jacobian_leaves_u_bounded; test_training
14. speed: benchmarks/bench_solver.py; test_memory, test_every_stored_vector_is_read_twice_per_iteration_and_no_more
"""
