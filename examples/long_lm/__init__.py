# examples/long_lm: the language model of text_lm, its text cut along its length over the processes of torch.distributed.
